"""``manifest.json``: what a complete run consists of; written last, and only once."""

from __future__ import annotations

from pydantic import Field

from cefr_batch.records.document import Count, Part, StoredRecord
from cefr_batch.records.metrics import Metrics
from cefr_batch.records.stages import StoredObject
from cefr_batch.records.submission import Submission
from cefr_batch.records.timestamps import Timestamp
from cefr_batch.records.training import EarlyStop


class RunSummary(Part):
    """What a list of runs shows of a complete one, so that only the manifest has to be read. Losses are in nats per
    token: the final training loss, and the best evaluation loss during training.
    """

    steps: Count
    epochs: float
    final_loss: float | None
    best_eval_loss: float | None
    attempts: Count | None
    submitted_at: Timestamp | None
    handle: str | None
    stopped_early: EarlyStop | None = None
    not_exported: dict[str, str] = Field(default_factory=dict)  # by kind, why

    @classmethod
    def of(cls, metrics: Metrics, submission: Submission | None) -> RunSummary:
        """The summary of a run with these figures; ``submission``: of its newest job, None if it was started by hand."""
        summary = cls(
            steps=metrics.train.steps,
            epochs=metrics.train.epochs,
            final_loss=metrics.train.final_loss,
            best_eval_loss=metrics.best.eval_loss if metrics.best else None,
            attempts=metrics.attempts,
            submitted_at=submission.submitted_at if submission else None,
            handle=submission.handle if submission else None,
        )
        failed = metrics.export.failed if metrics.export else {}
        optional = {"stopped_early": metrics.train.stopped_early, "not_exported": failed}
        return summary.model_copy(update={key: value for key, value in optional.items() if value})


class Manifest(StoredRecord):
    """A complete run's objects, sorted by key. Its contents are not trusted until they are checked."""

    run: str
    complete_at: Timestamp
    objects: list[StoredObject]
    summary: RunSummary | None = None  # not in manifests of version 0.1.0

    def without(self, folder: str) -> Manifest:
        """The manifest less the objects of a folder."""
        kept = [one for one in self.objects if not one.key.startswith(f"{folder}/")]
        return self.model_copy(update={"objects": kept})
