"""RunSpec + data → what a run will do: steps, evaluations, tokens. Pure; the arithmetic is transformers' trainer's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cefr_batch.config.schema import RunSpec, TrainingSpec
from cefr_batch.errors import Problem

if TYPE_CHECKING:
    from cefr_batch.data import Dataset, Example
    from cefr_batch.data.tokens import Fault


@dataclass(frozen=True)
class MicroBatch:
    """How one process goes through its share of a step's examples: so many at once, so many times."""

    rows: int
    accumulation: int

    @classmethod
    def of(cls, training: TrainingSpec, gpus: int = 1, at_most: int | None = None) -> MicroBatch:
        """The largest of at most ``at_most`` rows (default: ``training.batch_size``) that divides the share evenly.

        Whatever it is, a step has the same examples, since they are taken from the data in the same order.
        """
        share = training.batch_size * training.gradient_accumulation_steps // gpus
        limit = min(at_most or training.batch_size, share)
        rows = next(rows for rows in range(limit, 0, -1) if share % rows == 0)
        return cls(rows, share // rows)

    def halved(self) -> MicroBatch | None:
        """Half the rows or fewer, for the same share; None for a single row."""
        share = self.rows * self.accumulation
        rows = next((rows for rows in range(self.rows // 2, 0, -1) if share % rows == 0), None)
        return MicroBatch(rows, share // rows) if rows else None


@dataclass(frozen=True)
class Schedule:
    """How the trainer goes through so many training examples."""

    examples: int
    batch_size: int  # of all processes together
    accumulation: int
    steps: int  # optimizer steps in all

    @classmethod
    def of(cls, examples: int, training: TrainingSpec, gpus: int = 1) -> Schedule:
        """``training.max_steps`` counts instead of ``epochs``, even where it is longer."""
        batch = MicroBatch.of(training, gpus)
        base = cls(examples, batch.rows * gpus, batch.accumulation, 0)
        steps = training.max_steps or math.ceil(training.epochs * base.steps_per_epoch)
        return cls(examples, base.batch_size, base.accumulation, steps)

    @property
    def batches_per_epoch(self) -> int:
        """Of all processes together; the last one may be smaller."""
        return math.ceil(self.examples / self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """The last step of an epoch may have fewer batches than the others."""
        return max(math.ceil(self.batches_per_epoch / self.accumulation), 1)

    @property
    def epochs(self) -> float:
        """Passes over the data, at the end."""
        return self.epoch_at(self.steps)

    def epoch_at(self, step: int) -> float:
        """The epoch that the trainer logs after this step: whole passes, and the share of the batches of this one."""
        passes, before = divmod(step - 1, self.steps_per_epoch)
        batches = min((before + 1) * self.accumulation, self.batches_per_epoch)
        return passes + batches / self.batches_per_epoch

    def evaluations(self, every: int) -> list[int]:
        """Each multiple of ``every``; the last step only where no evaluation would come before it."""
        return list(range(every, self.steps + 1, every)) or [self.steps]

    def checkpoints(self, every: int) -> list[int]:
        """Each multiple of ``every``, and the last step."""
        return sorted({*range(every, self.steps + 1, every), self.steps})


@dataclass(frozen=True)
class PlannedEvaluation:
    """An evaluation during training: after which step, and the epoch then."""

    step: int
    epoch: float


@dataclass(frozen=True)
class Lengths:
    """The tokens of one side's examples, whole: the prompt, the response and the end-of-text token."""

    name: str  # "training examples", or with the file they come from
    examples: int
    longest_tokens: int
    kept_tokens: int  # what is left when each is cut at training.max_length
    truncated: int

    @classmethod
    def of(cls, name: str, tokens: Sequence[int], max_length: int) -> Lengths:
        """``tokens``: of each example; ``max_length``: where it is cut."""
        return cls(
            name=name,
            examples=len(tokens),
            longest_tokens=max(tokens, default=0),
            kept_tokens=sum(min(n, max_length) for n in tokens),
            truncated=sum(n > max_length for n in tokens),
        )


@dataclass(frozen=True)
class PlannedTexts:
    """What the models will write. ``baselines``: how the untrained one is asked besides; ``missing``: how it cannot be, for
    want of a chat template."""

    examples: int
    baselines: tuple[str, ...]
    missing: tuple[str, ...]
    max_new_tokens: int  # of each

    @classmethod
    def of(cls, spec: RunSpec, evaluated: int, no_chat_template: str | None) -> PlannedTexts:
        """``evaluated``: the evaluation examples that are used."""
        asked = tuple(dict.fromkeys(spec.generation.baselines))
        found, missing = ((), asked) if no_chat_template else (asked, ())
        return cls(min(spec.generation.examples, evaluated), found, missing, spec.generation.max_new_tokens)

    @property
    def texts(self) -> int:
        """Greedy and sampled ones, by both models."""
        return self.examples * 2 * (2 + len(self.baselines))


class ExampleTokens(Protocol):
    """A ``TokenCounter``, which has a tokenizer at hand."""

    @property
    def no_chat_template(self) -> str | None:
        """Why the model cannot be asked through a chat template of its own; None if it can."""

    def __call__(self, examples: Sequence[Example]) -> list[int]:
        """The tokens of each example's whole text."""

    def faults(self, examples: Sequence[Example], max_length: int) -> list[Fault]:
        """Why some of the examples cannot be learned from."""


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    train: Lengths
    eval: Lengths
    evaluated_examples: int  # of the evaluation side, see evaluation.max_examples
    effective_batch: int
    batches_per_epoch: int
    steps_per_epoch: int
    epochs: float
    steps: int
    warmup_steps: int
    evaluations: tuple[PlannedEvaluation, ...]
    checkpoints: tuple[int, ...]
    total_tokens: int  # trained on, all epochs; near enough where the last epoch is cut short
    max_length: int
    allow_truncation: bool
    texts: PlannedTexts
    unusable: tuple[str, ...]  # why examples cannot be learned from

    @property
    def longest_tokens(self) -> int:
        """Of both sides, uncut."""
        return max(self.train.longest_tokens, self.eval.longest_tokens)

    def problems(self) -> list[Problem]:
        """What prevents it from running as it is."""
        return [*self._too_long(), *(Problem("data", what) for what in self.unusable)]

    def warnings(self) -> list[Problem]:
        """What is probably not intended, though it runs."""
        return [Problem("training.warmup_ratio", what) for what in [self._all_warm_up()] if what]

    def _all_warm_up(self) -> str:
        """Why the learning rate stays below ``training.learning_rate``; empty if it does not.

        transformers rounds the warm-up up to whole steps. The rate is 0 in its first step, and reaches
        ``training.learning_rate`` only in the step after its last.
        """
        if self.warmup_steps < self.steps:
            return ""
        way_out = "set training.warmup_ratio to 0, or train for more steps (training.max_steps, training.epochs)"
        if self.steps == 1:
            return (
                "training has one step, and the warm-up covers it, so its learning rate is 0 and nothing is learned; "
                + way_out
            )
        return (
            f"the warm-up covers all {self.steps} steps, so the learning rate is 0 in the first one and never reaches "
            f"training.learning_rate; {way_out}"
        )

    def _too_long(self) -> list[Problem]:
        cut = [side for side in (self.train, self.eval) if side.truncated]
        if not cut or self.allow_truncation:
            return []
        counts = " and ".join(f"{side.truncated:,} of {side.examples:,} {side.name}" for side in cut)
        what = (
            f"{self.max_length} tokens would cut {counts} (the longest has {self.longest_tokens}); "
            f"raise training.max_length to {self.longest_tokens}, or set data.allow_truncation to true"
        )
        return [Problem("training.max_length", what)]


def make_plan(spec: RunSpec, dataset: Dataset, count: ExampleTokens) -> Plan:
    """``count``: a ``TokenCounter`` of the run's model and prompt format."""
    training = spec.training
    train = Lengths.of(_side("training", spec.data.train), count(dataset.train), training.max_length)
    evaluation = Lengths.of(_side("evaluation", spec.data.eval), count(dataset.eval), training.max_length)
    evaluated = min(evaluation.examples, spec.evaluation.max_examples or evaluation.examples)
    schedule = Schedule.of(train.examples, training, spec.resources.gpus)
    return Plan(
        train=train,
        eval=evaluation,
        evaluated_examples=evaluated,
        effective_batch=training.batch_size * training.gradient_accumulation_steps,
        batches_per_epoch=schedule.batches_per_epoch,
        steps_per_epoch=schedule.steps_per_epoch,
        epochs=schedule.epochs,
        steps=schedule.steps,
        warmup_steps=warmup_steps(schedule.steps, training),
        evaluations=tuple(
            PlannedEvaluation(step, schedule.epoch_at(step)) for step in schedule.evaluations(training.eval_steps)
        ),
        checkpoints=tuple(schedule.checkpoints(training.eval_steps)),
        total_tokens=round(train.kept_tokens * schedule.epochs),
        max_length=training.max_length,
        allow_truncation=spec.data.allow_truncation,
        texts=PlannedTexts.of(spec, evaluated, count.no_chat_template),
        unusable=tuple(
            fault.told(side.examples, side.name)
            for side, examples in ((train, dataset.train), (evaluation, dataset.eval))
            for fault in count.faults(examples, training.max_length)
        ),
    )


def warmup_steps(steps: int, training: TrainingSpec) -> int:
    """The steps over which the learning rate rises."""
    return 0 if training.lr_scheduler == "constant" else math.ceil(steps * training.warmup_ratio)


def _side(name: str, file: str | None) -> str:
    return f"{name} examples" + (f" of {file}" if file else "")
