"""What the models wrote: ``generation.json`` with the texts, and the figures that are counted in them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cefr_batch.records.document import Count, Part, StoredRecord

Mode = Literal["greedy", "sampled"]


class Answers(Part):
    """A model's answers to one prompt: its most probable text, and one drawn at random. ``cut``: which of them had not
    ended when they reached ``generation.max_new_tokens``.
    """

    greedy: str
    sampled: str
    cut: list[Mode] = Field(default_factory=list)


Baseline = Literal["zero_shot", "few_shot"]  # how else the untrained model is asked, see ``generation.baselines``
# Why it was not asked so: its tokenizer has no chat template, or a template that cannot be used; a prompt and the answer
# would be longer than the texts that the model can read.
WhyMissing = Literal["no_chat_template", "unusable_chat_template", "too_long"]


class WrittenExample(Part):
    """What the untrained and the tuned model wrote for the words of an evaluation example. ``baseline``: prompted as the
    tuned model is; ``zero_shot`` and ``few_shot``: in plain words through its own chat template, without and with three
    training examples. None: not prompted in that way; ``GenerationFigures.missing`` says why.
    """

    index: Count
    words: list[str]
    baseline: Answers
    tuned: Answers
    zero_shot: Answers | None = None
    few_shot: Answers | None = None


class GenerationRecord(StoredRecord):
    """``generation.json``."""

    examples: list[WrittenExample]


class Quality(Part):
    """Figures over all answers of a model in one mode; None if there is nothing to count. Of the answers:
    ``cut_percent``, those that reached ``generation.max_new_tokens`` before the model ended them. Of the sentences:
    ``copied_percent``, those that occur in the training data word for word; ``near_copied_percent``, those that occur
    there word for word or nearly so (``data.near_duplicates``); ``duplicate_percent``, those that equal an earlier one.
    Of the sentences with a word: ``repeated_openings_percent``, those that begin with the same three words as an earlier
    one. ``at_or_below_level_percent``: of the running words whose level is known. ``distinct_words_percent`` and
    ``distinct_word_pairs_percent``: distinct running words, and distinct pairs of neighbouring words in a sentence, as a
    share of all. ``readability_grade``: the Automated Readability Index, a US school grade. The fields that may be
    absent are newer than 0.1.0.
    """

    answers: Count
    sentences: Count
    well_formed_percent: float | None
    words_used_percent: float | None
    copied_percent: float | None
    duplicate_percent: float | None
    words_per_sentence: float | None
    at_or_below_level_percent: float | None
    unknown_words_percent: float | None
    readability_grade: float | None
    near_copied_percent: float | None = None
    distinct_words_percent: float | None = None
    distinct_word_pairs_percent: float | None = None
    repeated_openings_percent: float | None = None
    cut_percent: float | None = None


class QualityByMode(Part):
    """The figures of one model in both modes."""

    greedy: Quality
    sampled: Quality


class GenerationFigures(Part):
    """The figures of both models and, if the untrained one was also prompted in other ways, those of its answers to
    these.
    """

    baseline: QualityByMode
    tuned: QualityByMode
    zero_shot: QualityByMode | None = None
    few_shot: QualityByMode | None = None
    missing: dict[Baseline, WhyMissing] = Field(default_factory=dict)
