"""Waiting ends: by what schedulers and the store say, with a bound; a report's job may have the store alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from support.says_scheduler import SaysLauncher
from support.stand_in import status

from cefr_batch.errors import Unavailable, WaitTimeout
from cefr_batch.records import layout
from cefr_batch.runner import Clock, RunState, Session
from cefr_batch.runner.wait import FAILED_SECONDS, SILENT_SECONDS, wait_until_ended
from cefr_batch.schedulers import SCHEDULERS, Observation, State
from cefr_batch.schedulers.base import QUEUED_SECONDS
from cefr_batch.store.local import LocalStore

RUN = "tiny-b1-peft-v1"


def put(store: LocalStore, name: str, record: Any) -> None:
    store.put_json(layout.run_key(RUN, name), record)


def ago(seconds: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(seconds=seconds)).isoformat()


def complete(store: LocalStore) -> None:
    put(store, layout.MANIFEST, {"objects": []})


def cancelled(store: LocalStore) -> None:
    record = {"run": RUN, "cluster": "k8s", "handle": "k8s://c/n/x", "submitted_at": ago(9), "submitted_by": "me"}
    put(store, layout.SUBMISSION, {**record, "cancelled_at": ago(1)})


def failed(store: LocalStore) -> None:
    put(store, layout.STATUS, status(RUN, "FAILED", updated_at=ago(FAILED_SECONDS + 1)))


def gone(store: LocalStore) -> None:
    put(store, layout.STATUS, status(RUN, "RUNNING", updated_at=ago(SILENT_SECONDS + 1)))


@pytest.mark.parametrize("end", [complete, cancelled, failed, gone])
def test_the_wait_is_over_when_the_run_has_ended(end: Callable[[LocalStore], None], store: LocalStore) -> None:
    put(store, layout.STATUS, status(RUN, "RUNNING", updated_at=ago(1)))
    found: list[list[str]] = []
    waiter = threading.Thread(target=lambda: found.append(wait_until_ended(store, [RUN], 600, poll_seconds=0.01)))
    waiter.start()
    waiter.join(0.1)
    assert waiter.is_alive(), "it waits for a run that still runs"
    end(store)
    waiter.join(30)
    assert found == [[]]


@pytest.mark.parametrize(
    "said",
    [
        lambda: status(RUN, "RUNNING", updated_at=ago(SILENT_SECONDS / 2)),  # its node may be replaced
        lambda: status(RUN, "PREEMPTED", updated_at=ago(10**6)),
        lambda: status(RUN, "FAILED", updated_at=ago(FAILED_SECONDS / 2)),  # it may be tried again
        lambda: {"state": "FAILED"},
        lambda: status(RUN, "FAILED", updated_at="soon"),
        list,
    ],
    ids=["running", "preempted", "failed", "no time", "no such time", "no record"],
)
def test_what_may_still_go_on_is_waited_for_until_the_limit(said: Callable[[], Any], store: LocalStore) -> None:
    put(store, layout.STATUS, said())
    assert wait_until_ended(store, [RUN], 0.05, poll_seconds=0.01) == [RUN]


@pytest.mark.slow
def test_a_run_in_a_queue_gets_its_time_when_it_starts_and_no_queue_is_waited_for_for_ever(store: LocalStore) -> None:
    time = FakeTime()
    assert wait_until_ended(store, [RUN], 600, poll_seconds=3600, clock=time.clock) == [RUN]
    assert QUEUED_SECONDS <= time.now < QUEUED_SECONDS + 7200

    def starts_on_the_fifth_day(seconds: float) -> None:
        time.sleep(seconds)
        if time.now > 5 * 86400:
            put(store, layout.STATUS, status(RUN, "RUNNING"))

    time.now = 0.0
    clock = Clock(monotonic=lambda: time.now, sleep=starts_on_the_fifth_day)
    assert wait_until_ended(store, [RUN], 86400, poll_seconds=3600, clock=clock) == [RUN]
    assert 6 * 86400 <= time.now < 6 * 86400 + 3 * 3600


def test_a_run_that_never_starts_where_there_is_no_queue_is_not_waited_for_longer_than_its_job_lives(
    store: LocalStore,
) -> None:
    time = FakeTime()
    found = wait_until_ended(store, [RUN], 600, queued_seconds=900, poll_seconds=60, clock=time.clock)
    assert (found, 900 <= time.now < 1000) == ([RUN], True)


@pytest.mark.slow
def test_the_next_run_in_a_queue_gets_a_week_after_the_one_before_it(store: LocalStore) -> None:
    time, other = FakeTime(), "tiny-a1-peft-v1"

    def ends_on_the_sixth_day(seconds: float) -> None:
        time.sleep(seconds)
        if time.now > 6 * 86400:
            complete(store)

    clock = Clock(monotonic=lambda: time.now, sleep=ends_on_the_sixth_day)
    assert wait_until_ended(store, [RUN, other], 600, poll_seconds=3600, clock=clock) == [other]
    assert 13 * 86400 <= time.now < 13 * 86400 + 3 * 3600


def test_a_store_that_is_away_is_asked_again(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    exists = LocalStore.exists

    def away_twice(self: LocalStore, key: str) -> bool:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise Unavailable("away")
        return exists(self, key)

    monkeypatch.setattr(LocalStore, "exists", away_twice)
    complete(store)
    assert wait_until_ended(store, [RUN], 600, poll_seconds=0.01) == []
    assert asked == 3


def test_a_report_of_runs_that_all_ended_without_a_result_is_not_tried_again(
    cefr_batch: Callable[..., Any], store: LocalStore
) -> None:
    put(store, layout.SPEC, {"run": RUN, "dataset": "0" * 64, "spec": {"level": "B1"}, "submitted_at": ago(9)})
    put(store, layout.STATUS, status(RUN, "FAILED", updated_at=ago(FAILED_SECONDS * 2)))
    result = cefr_batch("report", RUN, "--wait", "600")
    assert (result.code, result.out) == (0, "")
    assert "no report was written: no complete run to report in" in result.err
    assert cefr_batch("report", RUN).code == 1


@pytest.mark.slow
def test_a_report_says_which_run_it_did_not_wait_for_any_longer(
    cefr_batch: Callable[..., Any], store: LocalStore
) -> None:
    put(store, layout.SPEC, {"run": RUN, "dataset": "0" * 64, "spec": {"level": "B1"}, "submitted_at": ago(9)})
    put(store, layout.STATUS, status(RUN, "RUNNING"))
    result = cefr_batch("report", RUN, "--wait", "1")
    assert result.code == 1, "there is nothing to report; Kubernetes tries again"
    assert (
        f"warning: {RUN} has not ended (1 s after its start, or 604800 s without having started); the report "
        "does not have its result" in result.err
    )


# A wait that asks the scheduler.


class FakeTime:
    """Time that passes only while somebody sleeps, in the place of a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.clock = Clock(monotonic=lambda: self.now, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.slow
def test_a_job_that_can_ask_the_scheduler_waits_as_long_as_that_keeps_the_run_and_no_longer(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is queued, preempted, queued again, and fails without a word in the store."""
    time = FakeTime()
    submitted(store, monkeypatch)

    def days_pass(seconds: float) -> None:
        time.sleep(seconds)
        day = time.now / 86400
        if 20 < day < 23 and store.exists(layout.run_key(RUN, layout.STATUS)) is False:
            put(store, layout.STATUS, status(RUN, "RUNNING", updated_at=ago(0)))
        said = State.PENDING if day < 20 or 21 < day < 30 else State.RUNNING if day < 31 else State.FAILED
        silent = round(time.now / 3600) % 24 == 0  # an hour a day, which ends no wait
        SaysLauncher.answer = None if silent else Observation(said)

    session = Session(store, clock=Clock(monotonic=lambda: time.now, sleep=lambda _: days_pass(3600)))
    SaysLauncher.answer = Observation(State.PENDING)
    assert session.wait_in_job([RUN], 2 * 3600, queued_seconds=2 * 3600) == []
    assert 31 * 86400 <= time.now < 31 * 86400 + 3 * 3600


@pytest.mark.parametrize(
    "answer", [None, Observation(State.UNKNOWN, "its cluster is another one")], ids=["silent", "no"]
)
def test_where_no_scheduler_can_be_asked_a_heartbeat_does_not_prolong_the_wait(
    answer: Observation | None, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = FakeTime()
    submitted(store, monkeypatch)
    monkeypatch.setattr(SaysLauncher, "answer", answer)
    put(store, layout.STATUS, status(RUN, "RUNNING", updated_at=ago(-3600)))
    assert Session(store, clock=time.clock).wait_in_job([RUN], 600) == [RUN]
    assert 600 <= time.now < 700


def test_why_a_scheduler_cannot_be_asked_is_said_once(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    time = FakeTime()
    submitted(store, monkeypatch)
    monkeypatch.setattr(SaysLauncher, "answer", Observation(State.UNKNOWN, "its cluster gave no certificate"))
    put(store, layout.STATUS, status(RUN, "RUNNING", updated_at=ago(600)))
    Session(store, clock=time.clock).wait_in_job([RUN], 600)
    (told,) = caplog.messages
    assert told.startswith(f"{RUN}: its cluster gave no certificate; ")
    assert told.endswith("; the store will show when it has ended")


def test_a_complete_run_is_waited_for_until_its_evaluations_have_ended(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = FakeTime()
    submitted(store, monkeypatch)
    complete(store)
    hashes = {"dataset": "0" * 64, "eval_sha256": "0" * 64}
    task = {"model": "tuned", "label": "A1", **hashes, "examples": 1, "answered": 0}
    put(store, layout.EVALUATION_REQUEST, {"run": RUN, "tasks": [task]})

    def fails_after_a_day(seconds: float) -> None:
        time.sleep(3600)
        SaysLauncher.answer = Observation(State.RUNNING if time.now < 86400 else State.FAILED)

    monkeypatch.setattr(SaysLauncher, "answer", Observation(State.RUNNING))
    clock = Clock(monotonic=lambda: time.now, sleep=fails_after_a_day)
    assert Session(store, clock=clock).wait_in_job([RUN], 600, queued_seconds=600) == []
    assert 86400 <= time.now < 86400 + 7200


def submitted(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's job is with a scheduler that says ``SaysLauncher.answer``."""
    monkeypatch.setitem(SCHEDULERS, "says", "support.says_scheduler:SaysLauncher")
    monkeypatch.setattr(SaysLauncher, "answer", None)
    record = {"run": RUN, "cluster": "says", "handle": "says://1", "submitted_at": ago(9), "submitted_by": "me"}
    put(store, layout.SUBMISSION, record)


@pytest.fixture
def lost(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> type[SaysLauncher]:
    """A run whose scheduler cannot be reached."""
    submitted(store, monkeypatch)
    return SaysLauncher


def test_a_run_whose_state_stays_unknown_is_waited_for_ten_minutes(store: LocalStore, lost: type[SaysLauncher]) -> None:
    time = FakeTime()
    seen: list[RunState] = []
    with pytest.raises(WaitTimeout, match=rf"10 minutes:\n  {RUN}: the scheduler does not answer\n.*resume --force"):
        seen.extend(state for states in Session(store, clock=time.clock).watch([RUN]) for state in states)
    assert time.now == 600
    assert {state.state for state in seen} == {State.UNKNOWN}


@pytest.mark.slow
def test_unknown_for_a_while_does_not_end_the_wait(store: LocalStore, lost: type[SaysLauncher]) -> None:
    time = FakeTime()
    states: list[RunState] = []
    for states in Session(store, clock=time.clock).watch([RUN]):  # noqa: B007 (the last ones are looked at)
        lost.answer = Observation(State.RUNNING) if time.now % 500 == 0 else None
        if time.now > 2000:
            complete(store)
    assert states[0].state is State.SUCCEEDED
    assert time.now > 2000


@pytest.mark.slow
def test_a_lost_run_does_not_end_the_wait_for_the_others(store: LocalStore, lost: type[SaysLauncher]) -> None:
    other, time = "tiny-a1-peft-v1", FakeTime()
    watched = Session(store, clock=time.clock).watch([RUN, other])
    while time.now < 900:
        store.put_json(layout.run_key(other, layout.STATUS), status(other, "RUNNING"))
        next(watched)
    store.put_json(layout.run_key(other, layout.MANIFEST), {})
    with pytest.raises(WaitTimeout, match="the state of 1 run"):
        list(watched)


def test_wait_returns_how_the_runs_ended(store: LocalStore) -> None:
    complete(store)
    (state,) = Session(store).wait([RUN])
    assert (state.run, state.state) == (RUN, State.SUCCEEDED)
