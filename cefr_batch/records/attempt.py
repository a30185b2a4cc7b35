"""``attempts/<n>.json``: the n-th job that worked on a run."""

from __future__ import annotations

from cefr_batch.records.document import Count, StoredRecord


class Attempt(StoredRecord):
    """Where a job runs. Whoever writes the n-th of these records first is the run's n-th attempt, and no earlier attempt
    may write any more.
    """

    attempt: Count
    host: str
    pid: int
    image: str | None = None  # of the container, with its digest
    started_at: str
    repeated_steps: Count = 0  # training steps computed again, since no checkpoint held them
    finished_stages: Count | None = None  # when it began; None: it did not come so far, or was of 0.1.0
    first_step: Count | None = None  # the step of the checkpoint that it went on from, 0 without one
