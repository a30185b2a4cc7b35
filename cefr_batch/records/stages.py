"""``stages/<stage>.json``: a finished stage, what it found, and what it left in the store.

A stage's result is a model of its own. Version 0.1.0 stored the parts that are no figures under the names of the objects
that they end up in (``evaluation.json``, ``generation.json``); these keys stay.
"""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from pydantic import Field

from cefr_batch.records.document import Count, Part, Sha256, StoredRecord
from cefr_batch.records.level_figures import WrittenLevels
from cefr_batch.records.losses import ExampleScore, Losses
from cefr_batch.records.spec import StartingAdapter
from cefr_batch.records.texts import GenerationFigures, GenerationRecord
from cefr_batch.records.training import BestCheckpoint, LogEntry, Machine, TrainingFigures

Result = TypeVar("Result", bound=Part)


class StoredObject(Part):
    """An object of a run, by its key relative to the run."""

    key: str
    size: Count  # bytes
    sha256: Sha256


class StageRecord(StoredRecord, Generic[Result]):
    """A finished stage. ``objects`` is known once they are stored."""

    stage: str
    seconds: float
    result: Result
    objects: list[StoredObject] = Field(default_factory=list)


class DatasetFigures(Part):
    """What the run is trained and evaluated on."""

    train_examples: Count
    eval_examples: Count
    unique_words: Count  # of both sides
    longest_example_tokens: Count
    train_sha256: str = ""
    eval_sha256: str = ""


class EvaluationSize(Part):
    """How much of the evaluation set is evaluated, and in which batches."""

    examples: Count
    batch_size: Count


class Leakage(Part):
    """Which percentages of the evaluation set's sentences and words also occur in the training set. Sentences are
    compared word for word (the output's numbered lines without their numbers), words without regard to case.
    ``near_sentences_percent``: the sentences that occur there word for word or nearly so (``data.near_duplicates``);
    None: written by a version that did not look for them.
    """

    sentences_percent: float
    words_percent: float
    near_sentences_percent: float | None = None


class DataResult(Part):
    """The result of stage ``data``."""

    data: DatasetFigures
    evaluation: EvaluationSize
    leakage: Leakage


class BaselineResult(Part):
    """The result of stage ``baseline``: the pretrained model's losses."""

    baseline: Losses
    examples: list[ExampleScore] = Field(validation_alias="evaluation.json", serialization_alias="evaluation.json")


class Licence(Part):
    """The licence of a pretrained model, as its own card gives it: ``id`` is one of the hub's, such as ``apache-2.0``;
    if it is ``other``, there may be a name and a link.
    """

    id: str
    name: str | None = None
    link: str | None = None


class TrainResult(Part):
    """The result of stage ``train``. ``model_licence``: that of the pretrained model, if its card gives one;
    ``peak_gpu_memory_gb``: the most GPU memory that torch reserved, in 10⁹ bytes; on CUDA only.
    """

    train: TrainingFigures
    log: list[LogEntry]
    best: BestCheckpoint
    machine: Machine
    versions: dict[str, str]
    model_revision: str | None
    model_licence: Licence | None = None
    adapter: StartingAdapter | None = None  # that training started from
    peak_gpu_memory_gb: float | None = None


class TunedResult(Part):
    """The result of stage ``tuned``: the losses of the model with its adapter. ``adapter_sha256``: of the adapter's
    weights; None: written by a version that did not record it.
    """

    tuned: Losses
    examples: list[ExampleScore] = Field(validation_alias="evaluation.json", serialization_alias="evaluation.json")
    adapter_sha256: Sha256 | None = None


class GenerateResult(Part):
    """The result of stage ``generate``; empty if no text was asked for."""

    generation: GenerationFigures | None = None
    levels: WrittenLevels | None = None
    texts: GenerationRecord | None = Field(
        default=None, validation_alias="generation.json", serialization_alias="generation.json"
    )


# Rounding to 16 bits may change the loss: after a few steps most changes are smaller than what bf16 can hold (seen: 0.06).
NOTICEABLE_ROUNDING = 5e-3  # nats a token


Fp16Overflow = Literal["weights", "outputs"]


class MergeCheck(Part):
    """The loss of the same examples with the adapter, and of the merged model: before its weights were rounded to
    ``dtype`` (``exact_loss``), and after, as loaded again. None: written by a version that did not measure it.
    ``tried``: for each type that was tried, by how much rounding changes an example's loss, up or down, in nats per
    token; ``overflow``: what fp16 could not hold.
    """

    adapter_loss: float
    exact_loss: float | None = None
    merged_loss: float
    dtype: str | None = None
    examples: Count
    tried: dict[str, float] = Field(default_factory=dict)
    overflow: Fp16Overflow | None = None

    @property
    def rounding_change(self) -> float | None:
        """By how much rounding the weights changed the loss, where that is noticeable: above 0.005 nats a token."""
        change = None if self.exact_loss is None else self.merged_loss - self.exact_loss
        return None if change is None or abs(change) <= NOTICEABLE_ROUNDING else change


class MergeResult(Part):
    """The result of stage ``merge``."""

    merge: MergeCheck


class PlotsResult(Part):
    """The result of stage ``plots``: the names of the figures."""

    plots: list[str]
