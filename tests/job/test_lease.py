"""When attempts that lead nowhere end: their records in a real store, without the jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cefr_batch.errors import JobFailed
from cefr_batch.job.lease import Lease
from cefr_batch.records import layout
from cefr_batch.records.attempt import Attempt
from cefr_batch.records.submission import Submission
from cefr_batch.records.timestamps import now
from cefr_batch.store.local import LocalStore

RUN = "tiny-b1-peft-v1"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def submitted(store: LocalStore, attempts_before: int | None) -> None:
    record = Submission(
        run=RUN,
        cluster="slurm",
        handle="slurm://e2e/7",
        submitted_at=now(),
        submitted_by="me",
        cancelled_at=None,
        attempts_before=attempts_before,
    )
    store.put_record(layout.run_key(RUN, layout.SUBMISSION), record)


def begin(store: LocalStore, step: int, stages: int = 2, failure: str = "") -> int:
    """The next attempt, which begins at this checkpoint; its number."""
    lease = Lease.take(store, RUN)
    lease.record_start(finished_stages=stages, first_step=step, repeated_steps=0, failure=failure)
    return lease.attempt


def test_after_three_attempts_that_stored_nothing_new_the_next_one_fails_and_says_so(store: LocalStore) -> None:
    submitted(store, 0)
    assert [begin(store, 40) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(
        JobFailed, match=r"3 attempts in a row ended before they had stored anything new .* from step 40"
    ):
        begin(store, 40)
    with pytest.raises(JobFailed, match=r"from step 40\); the last one failed: Unsloth cannot be used here"):
        begin(store, 40, failure="Unsloth cannot be used here")
    with pytest.raises(JobFailed) as second:
        begin(store, 40, failure="3 attempts in a row ended; the last one failed: out of luck")
    assert str(second.value).count("the last one failed: out of luck") == str(second.value).count("in a row") == 1
    submitted(store, 6)  # resumed
    assert [begin(store, 40) for _ in range(3)] == [7, 8, 9]
    with pytest.raises(JobFailed, match=f"cefr-batch resume {RUN}"):
        begin(store, 40)


def test_any_progress_counts(store: LocalStore) -> None:
    submitted(store, 0)
    for step, stages in ((0, 2), (0, 2), (0, 2), (10, 2), (10, 2), (10, 2), (10, 3), (10, 3), (10, 3), (10, 4)):
        begin(store, step, stages)


def test_an_attempt_that_was_killed_before_it_began_proves_nothing(store: LocalStore) -> None:
    submitted(store, 0)
    for number in range(1, 8):
        if number % 2:
            Lease.take(store, RUN)
        else:
            begin(store, 40)


def test_an_attempt_whose_record_is_damaged_proves_nothing(store: LocalStore) -> None:
    """As a machine that died left it. The three that began after it count."""
    submitted(store, 0)
    assert [begin(store, 40) for _ in range(2)] == [1, 2]
    store.put(layout.run_key(RUN, layout.attempt_name(2)), b'{"attempt": 2, "ho')
    assert [begin(store, 40) for _ in range(3)] == [3, 4, 5]
    with pytest.raises(JobFailed, match="3 attempts in a row"):
        begin(store, 40)


def test_attempts_that_somebody_starts_by_hand_are_not_counted(store: LocalStore) -> None:
    assert [begin(store, 0) for _ in range(5)] == [1, 2, 3, 4, 5]
    submitted(store, None)  # by 0.1.0
    assert begin(store, 0) == 6


def test_where_an_attempt_begins_is_added_to_its_record(store: LocalStore) -> None:
    lease = Lease.take(store, RUN)
    before = store.get_record(layout.run_key(RUN, layout.attempt_name(1)), Attempt)
    lease.record_start(finished_stages=2, first_step=40, repeated_steps=7)
    after = store.get_record(layout.run_key(RUN, layout.attempt_name(1)), Attempt)
    assert after == before.model_copy(update={"finished_stages": 2, "first_step": 40, "repeated_steps": 7})
