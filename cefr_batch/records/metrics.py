"""``metrics.json``: every number of a complete run's report. docs/metrics.md describes each key."""

from __future__ import annotations

from pydantic import Field

from cefr_batch.records.document import Count, StoredRecord
from cefr_batch.records.exports import ExportResult
from cefr_batch.records.level_figures import WrittenLevels
from cefr_batch.records.losses import Losses, Reductions
from cefr_batch.records.spec import StartingAdapter
from cefr_batch.records.stages import DatasetFigures, EvaluationSize, Leakage, Licence, MergeCheck
from cefr_batch.records.texts import GenerationFigures
from cefr_batch.records.training import BestCheckpoint, LogEntry, Machine, TrainingFigures


class Metrics(StoredRecord):
    """``metrics.json``: a run's figures. The fields that may be absent are newer than the others."""

    run: str = ""
    level: str
    backend: str
    model: str
    attempts: Count | None = None
    repeated_steps: Count = 0
    stage_seconds: dict[str, float] = Field(default_factory=dict)
    data: DatasetFigures
    evaluation: EvaluationSize | None = None
    leakage: Leakage
    baseline: Losses
    train: TrainingFigures
    log: list[LogEntry]
    best: BestCheckpoint | None
    machine: Machine | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    model_revision: str | None = None
    model_licence: Licence | None = None
    adapter: StartingAdapter | None = None
    peak_gpu_memory_gb: float | None = None
    tuned: Losses
    generation: GenerationFigures | None = None
    levels: WrittenLevels | None = None
    merge: MergeCheck | None = None
    export: ExportResult | None = None  # of the job's stage; exports may be made later, too
    plots: list[str] = Field(default_factory=list)
    reduction: Reductions

    @property
    def examples_evaluated(self) -> int:
        """All evaluation examples unless the spec limits them."""
        return self.evaluation.examples if self.evaluation else self.data.eval_examples
