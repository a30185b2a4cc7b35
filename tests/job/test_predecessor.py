"""A job that begins while the attempt before is still stopping."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support.cluster_jobs import checkpoint, step
from support.job_runs import claimed_run, start_job, stored
from support.stand_in import until

from cefr_batch.errors import Interrupted
from cefr_batch.job import predecessor
from cefr_batch.job.predecessor import wait_until_stopped
from cefr_batch.records import layout
from cefr_batch.records.status import Status
from cefr_batch.records.timestamps import now
from cefr_batch.store.local import LocalStore

RUN = "llama1b-02c585-b1-peft-v1"


def says(store: LocalStore, beat: int, **values: object) -> None:
    """The attempt before writes its status."""
    known = {"stage": "train", "run": RUN, "attempt": 1, "state": "RUNNING", "stages_done": [], "host": "a", "pid": 1}
    written = {**known, "message": "", "updated_at": f"2026-11-27T10:00:{beat:02}Z", **values}
    store.put_record(layout.run_key(RUN, layout.STATUS), Status.model_validate(written))


def meanwhile(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    monkeypatch.setattr(predecessor, "_POLL_SECONDS", 0.01)
    return LocalStore(tmp_path)


def test_it_begins_once_the_one_before_has_ended(store: LocalStore) -> None:
    said: list[int] = []

    def stop_slowly() -> None:
        for beat in range(1, 20):
            says(store, beat, stopping=True)
            said.append(beat)
            threading.Event().wait(0.02)
        says(store, 20, state="PREEMPTED")

    says(store, 0, stopping=True)
    meanwhile(stop_slowly)
    wait_until_stopped(store, RUN)
    assert said == list(range(1, 20))


def test_one_that_was_killed_is_not_waited_for(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that did not say that it is stopping, as where a node is lost, not at all; one that did, until it is silent."""
    wait_until_stopped(store, RUN)
    says(store, 0)
    wait_until_stopped(store, RUN)
    monkeypatch.setattr(predecessor, "SILENT_SECONDS", 0.1)
    says(store, 1, stopping=True)
    wait_until_stopped(store, RUN)
    store.put(layout.run_key(RUN, layout.STATUS), b"{")
    wait_until_stopped(store, RUN)


def test_on_kubernetes_one_that_may_not_have_heard_yet_is_given_time(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor may be there before the kubelet tells a deleted pod to stop."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(predecessor, "_ALIVE_SECONDS", 0.5)
    said: list[str] = []

    def hears_late() -> None:
        for values in ({}, {}, {"stopping": True}, {"stopping": True}, {"state": "PREEMPTED"}):
            threading.Event().wait(0.05)
            says(store, len(said), **values, updated_at=now())
            said.append(str(values))

    says(store, 0, updated_at=now())
    meanwhile(hears_late)
    wait_until_stopped(store, RUN)
    assert len(said) >= 4
    says(store, 0, updated_at=now())  # killed: nothing more comes
    wait_until_stopped(store, RUN)
    says(store, 0)  # long ago
    wait_until_stopped(store, RUN)


def test_while_it_waits_it_can_be_asked_to_stop(store: LocalStore) -> None:
    says(store, 0, stopping=True)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Interrupted, match="stopped on request before it began"):
        wait_until_stopped(store, RUN)


@pytest.mark.slow
def test_the_last_checkpoint_of_a_job_that_stops_is_where_the_next_begins(tiny_model: Path, tmp_path: Path) -> None:
    """As on Kubernetes before 1.28: the next pod starts while the deleted one finishes its step."""
    store = LocalStore(tmp_path / "store")
    run = claimed_run(store, tiny_model, "training.max_steps=3000", "training.eval_steps=1000")
    first = start_job(store, run, tmp_path / "one")
    until(lambda: step(store, run) > 2, 120)
    (training,) = psutil.Process(first.pid).children()
    training.suspend()
    first.terminate()
    until(lambda: stored(store, run, layout.STATUS).get("stopping") is True)
    second = start_job(store, run, tmp_path / "another")
    assert second.stdout
    line = second.stdout.readline()
    assert f"attempt 1 of {run} is still storing its results; waiting until it has ended" in line
    assert checkpoint(store, run) == 0
    training.resume()
    assert "STOPPED: stopped on request" in first.communicate()[0]
    last = checkpoint(store, run)
    assert last > 2
    until(lambda: step(store, run) > last, 120)
    second.terminate()
    said = second.communicate()[0]
    assert f"training resumes after step {last} (0 steps are computed again)" in said
    began = stored(store, run, layout.attempt_name(2))
    assert (began["first_step"], began["repeated_steps"]) == (last, 0)
