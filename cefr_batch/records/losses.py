"""Losses: of a model on the evaluation set, by part of the text, and what they are made of.

A loss is the summed negative log-likelihood divided by the number of predicted tokens, in nats.
"""

from __future__ import annotations

from pydantic import Field

from cefr_batch.records.document import Count, Part, StoredRecord
from cefr_batch.records.figures import perplexity


class Loss(Part):
    """A mean over tokens, in nats, and ``exp`` of it."""

    loss: float
    perplexity: float


class TokenLoss(Loss):
    """A loss over a known number of predicted tokens."""

    tokens: Count

    @classmethod
    def of(cls, loss: float, tokens: int) -> TokenLoss:
        """With its perplexity. Raises ``ValueError`` if the loss is not finite."""
        return cls(loss=loss, perplexity=perplexity(loss), tokens=tokens)


class Losses(Part):
    """A model's losses. ``full``: over all tokens but the first; ``response``: over the response and end-of-text;
    ``seen`` and ``unseen``: over the response's sentences that are, and are not, in the training data (None: there are
    none); ``seed_protocol``: as the team's first report computed it."""

    full: TokenLoss
    response: TokenLoss
    seen: TokenLoss | None = None
    unseen: TokenLoss | None = None
    seed_protocol: Loss


class PartSums(Part):
    """An example's summed negative log-likelihoods in nats, by part as in ``Losses``."""

    full: float
    response: float
    seen: float
    unseen: float


class PartCounts(Part):
    """An example's numbers of predicted tokens, by part as in ``Losses``."""

    full: Count
    response: Count
    seen: Count
    unseen: Count


class SentenceScore(Part):
    """What a sentence contributes to its example's sums. ``number``: its number among the distinct sentences of the set,
    in the order in which these first occur; ``nll``: the summed negative log-likelihood in nats; ``tokens``: the number
    of predicted tokens.
    """

    number: Count
    nll: float
    tokens: Count


class ExampleScore(Part):
    """What one model's losses are computed from, for one example. ``sentences``: empty if an earlier version ran."""

    nll: PartSums
    tokens: PartCounts
    sentences: list[SentenceScore] = Field(default_factory=list)


class EvaluatedSentence(Part):
    """A sentence as in ``SentenceScore``, before and after training."""

    number: Count
    tokens: Count
    baseline: float
    tuned: float


class EvaluatedExample(Part):
    """An evaluation example, by its index in the file, before and after training."""

    index: Count
    tokens: PartCounts
    baseline: PartSums
    tuned: PartSums
    sentences: list[EvaluatedSentence] = Field(default_factory=list)


class EvaluationRecord(StoredRecord):
    """``evaluation.json``: what the losses in metrics.json are computed from, by example in file order."""

    examples: list[EvaluatedExample]


class Reduction(Part):
    """``100 (1 - tuned / baseline)``, in percent; negative if the figure grew."""

    loss_percent: float
    perplexity_percent: float


class Reductions(Part):
    """The reductions, by part as in ``Losses``. ``seen`` or ``unseen`` is absent if there are no such tokens, or if an
    earlier version ran.
    """

    full: Reduction
    response: Reduction
    seen: Reduction | None = None
    unseen: Reduction | None = None
    seed_protocol: Reduction
