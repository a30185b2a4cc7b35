"""What is to be trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cefr_batch.config.schema import RunSpec
from cefr_batch.data import Example
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.training import BestCheckpoint, LogEntry, TrainingFigures


@dataclass(frozen=True)
class TrainingTask:
    """Everything that a training process needs, also one that is started for it: it can be pickled."""

    spec: RunSpec
    model_path: Path  # a folder that transformers loads
    train: Sequence[Example]
    evaluation: Sequence[Example]
    work: WorkDir
    pause_after: int | None = None  # the step after which training stops, for now
    adapter: Path | None = None  # the folder of the adapter to start from; fresh weights without one


@dataclass(frozen=True)
class Trained:
    """What training found out; its adapter is in the work folder."""

    figures: TrainingFigures
    log: list[LogEntry]
    best: BestCheckpoint
    peak_gpu_memory_gb: float | None  # in 10⁹ bytes, as torch reserved it; None without CUDA
