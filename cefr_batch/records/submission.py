"""``submission.json``: who started a run's newest job, when and where."""

from __future__ import annotations

from cefr_batch.records.document import Count, StoredRecord
from cefr_batch.records.status import Status
from cefr_batch.records.timestamps import Timestamp, parse_time


class Submission(StoredRecord):
    """The newest job of a run. ``cluster`` is a scheduler with its site (``slurm/NAME``), ``handle`` the scheduler's
    name for the job. ``attempts_before``: the newest attempt of the jobs before it, 0 for the first job; None: written
    by version 0.1.0, which compared clocks. ``report``: the address of the report that a job of the cluster writes once all
    runs of the run's first submission have ended.
    """

    run: str
    cluster: str
    handle: str
    submitted_at: Timestamp
    submitted_by: str
    cancelled_at: str | None = None
    attempts_before: Count | None = None
    report: str | None = None

    def wrote(self, status: Status) -> bool:
        """Whether this job, and none before it, wrote the status. The clocks of its machine and the submitter's may differ,
        so the number of the attempt tells."""
        if self.attempts_before is None:
            return parse_time(status.updated_at) >= parse_time(self.submitted_at)
        return status.attempt > self.attempts_before

    @property
    def scheduler(self) -> str:
        """The scheduler alone, without the site: ``slurm`` of ``slurm/NAME``."""
        return self.cluster.partition("/")[0]
