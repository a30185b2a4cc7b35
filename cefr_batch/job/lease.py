"""Which job may write to a run: its newest attempt, and no other."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from cefr_batch.errors import AlreadyExists, JobFailed, LeaseLost
from cefr_batch.records import layout
from cefr_batch.records.attempt import Attempt
from cefr_batch.records.timestamps import now
from cefr_batch.runner.submission import newest_attempt, read_submission, where_began
from cefr_batch.store.base import Store

_IN_VAIN = 3  # attempts that store nothing new, after which the next one does not try


class Lease:
    """A run's newest attempt holds it, until a newer one takes it over by writing its record. ``lost``: it has been."""

    def __init__(self, store: Store, run: str, record: Attempt) -> None:
        self._store, self._record = store, record
        self.run = run
        self.attempt = record.attempt
        self.lost = False

    @classmethod
    def take(cls, store: Store, run: str) -> Lease:
        """Become the newest attempt: of several that try, the one whose record is written first under the next number."""
        while True:
            number = newest_attempt(store, run) + 1
            record = Attempt(
                attempt=number,
                host=socket.gethostname(),
                pid=os.getpid(),
                image=os.environ.get("CEFR_BATCH_IMAGE"),
                started_at=now(),
            )
            with suppress(AlreadyExists):
                store.put_record(layout.run_key(run, layout.attempt_name(number)), record, if_absent=True)
                return cls(store, run, record)

    def check(self) -> None:
        """Raise ``LeaseLost`` if a newer attempt has started: a job that its scheduler gave up may be alive all the same,
        and must not write over its successor."""
        if self._store.exists(self._key(self.attempt + 1)):
            self.lost = True
            raise LeaseLost(
                f"attempt {self.attempt + 1} of {self.run} has started, so this one stops and writes nothing more; there "
                "is nothing to do"
            )

    def record_start(self, *, finished_stages: int, first_step: int, repeated_steps: int, failure: str = "") -> None:
        """Add to the attempt's record where it begins, and how many training steps it repeats. Raises ``JobFailed`` if three
        attempts before it, started by the scheduler alone, began there too: it would lead nowhere again. ``failure``: what
        the last of them said when it failed; empty if it was killed or asked to stop."""
        known = {"finished_stages": finished_stages, "first_step": first_step, "repeated_steps": repeated_steps}
        self._store.put_record(self._key(self.attempt), self._record.model_copy(update=known))
        submission = read_submission(self._store, self.run)
        since = submission.attempts_before if submission else None  # None: started by hand, nobody counts its attempts
        if since is None or self.attempt - since <= _IN_VAIN:
            return
        numbers = range(self.attempt - _IN_VAIN, self.attempt)
        if all(where_began(self._store, self.run, n) == (finished_stages, first_step) for n in numbers):
            remedy = (
                "see their logs, give a job more time or memory, or let it store checkpoints more often "
                f"(training.eval_steps), then `cefr-batch resume {self.run}`"
            )
            failed = "the last one failed: "
            cause = failure.rpartition(failed)[2]  # where the last one ended here, too, what it repeated
            raise JobFailed(
                f"{_IN_VAIN} attempts in a row ended before they had stored anything new (all began after {finished_stages} "
                f"finished stages, from step {first_step}); {failed + cause if cause else remedy}"
            )

    def _key(self, attempt: int) -> str:
        return layout.run_key(self.run, layout.attempt_name(attempt))
