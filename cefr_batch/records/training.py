"""What training says of itself: its figures, its log, the machine that it ran on."""

from __future__ import annotations

import re

from pydantic import Field

from cefr_batch.records.document import Count, Part


class OomEvent(Part):
    """A micro-batch that did not fit into the GPU's memory: its step, and its examples on one GPU."""

    step: Count
    batch_size: Count


class LogEntry(Part):
    """A point of the training curves: either ``loss``, ``learning_rate`` and ``gradient_norm``, or ``eval_loss``."""

    step: Count
    epoch: float
    loss: float | None = None  # nats per token, mean since the entry before
    eval_loss: float | None = None  # nats per token, the trainer's mean over batches
    learning_rate: float | None = None
    gradient_norm: float | None = None  # L2, before clipping

    @property
    def values(self) -> dict[str, float]:
        """Those that it has."""
        return {name: value for name in LOGGED if (value := getattr(self, name)) is not None}

    def line(self) -> str:
        """As a job's log shows it, with four significant digits."""
        shown = " ".join(f"{name} {value:.4g}" for name, value in self.values.items())
        return f"step {self.step} epoch {self.epoch:.2f} {shown}"


LOGGED = ("loss", "eval_loss", "learning_rate", "gradient_norm")  # in the order of the log
_NUMBER = r"-?[0-9][0-9.e+-]{0,20}"
_LINE = re.compile(rf"\bstep ([0-9]{{1,9}}) epoch ({_NUMBER})((?: (?:{'|'.join(LOGGED)}) {_NUMBER})+)$", re.MULTILINE)


def logged_entries(log: str) -> list[LogEntry]:
    """The entries whose lines stand in a job's log, in their order; what looks like one and is none is left out."""
    found = []
    for step, epoch, values in _LINE.findall(log):
        words = values.split()
        try:
            numbers = {name: float(value) for name, value in zip(words[::2], words[1::2], strict=True)}
            found.append(LogEntry(step=int(step), epoch=float(epoch), **numbers))
        except ValueError:  # no number, or a loss that is not finite
            continue
    return found


class BestCheckpoint(Part):
    """The evaluation with the lowest loss, whose checkpoint becomes the adapter."""

    step: Count
    epoch: float
    eval_loss: float


class EarlyStop(Part):
    """Training ended before its last step, because this many ``evaluations`` in a row found no lower loss."""

    evaluations: Count
    planned_steps: Count

    def __str__(self) -> str:
        if self.evaluations == 1:
            return "its last evaluation brought no lower loss"
        return f"no lower loss in {self.evaluations} evaluations"


class TrainingFigures(Part):
    """What was trained, and how fast. The fields that may be absent are newer than the others."""

    examples: Count
    steps: Count
    epochs: float
    duration_seconds: float
    samples_per_second: float
    final_loss: float | None  # nats per token, mean since the last log entry but one
    batch_size: Count | None = None  # on each GPU, at the end
    gradient_accumulation_steps: Count | None = None
    gpus: Count | None = None
    out_of_memory: list[OomEvent] = Field(default_factory=list)
    stopped_early: EarlyStop | None = None


class Machine(Part):
    """Where a run was trained; ``gpu_memory_gb`` in 10⁹ bytes."""

    cpu: str
    threads: int
    gpu: str | None
    gpu_memory_gb: float | None = None
