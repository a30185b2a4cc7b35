"""A pod of a Job whose run was moved to another scheduler: its records in a real store, without the cluster."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from cefr_batch.errors import Interrupted, JobFailed
from cefr_batch.job import moved
from cefr_batch.job.moved import require_not_moved
from cefr_batch.job.supervisor import run_job
from cefr_batch.records import layout
from cefr_batch.records.submission import Submission
from cefr_batch.records.timestamps import now
from cefr_batch.runner.submission import newest_attempt, read_submission
from cefr_batch.schedulers.sites import SCHEDULER
from cefr_batch.store.local import LocalStore

RUN = "tiny-b1-peft-v1"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    monkeypatch.setattr(moved, "_POLL_SECONDS", 0.01)
    monkeypatch.setenv(SCHEDULER, "k8s")
    return LocalStore(tmp_path / "store")


def submitted(store: LocalStore, cluster: str) -> None:
    handle = f"{cluster.partition('/')[0]}://e2e/7"
    record = Submission(run=RUN, cluster=cluster, handle=handle, submitted_at=now(), submitted_by="me")
    store.put_record(layout.run_key(RUN, layout.SUBMISSION), record)


def test_it_does_not_take_the_run_back_and_is_not_started_again(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moved, "RECORDED_SECONDS", 0.05)
    submitted(store, "slurm/a100")
    with pytest.raises(JobFailed, match=f"{RUN} was moved to slurm/a100, so this job leaves it alone") as caught:
        run_job(store, RUN, tmp_path / "work")
    assert caught.value.permanent
    assert newest_attempt(store, RUN) == 0


def test_it_waits_until_the_command_that_moved_the_run_here_has_recorded_it(store: LocalStore) -> None:
    submitted(store, "slurm/a100")
    threading.Timer(0.1, submitted, (store, "k8s/here")).start()
    require_not_moved(store, RUN)
    recorded = read_submission(store, RUN)
    assert recorded
    assert recorded.cluster == "k8s/here"


def test_while_it_waits_it_can_be_asked_to_stop(store: LocalStore) -> None:
    submitted(store, "local")
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Interrupted, match="stopped on request before it began"):
        require_not_moved(store, RUN)


@pytest.mark.parametrize(
    ("scheduler", "cluster"),
    [
        ("k8s", None),  # a manifest that somebody applied
        ("k8s", "k8s"),
        ("k8s", "k8s/here"),  # a pod that replaces another
        ("k8s", "k8s/another-site"),  # which may name the same Job
        (None, "slurm/a100"),  # requeued
        (None, "local"),
        (None, "k8s/here"),  # run-job by hand
    ],
)
def test_nothing_else_is_kept_from_beginning(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, scheduler: str | None, cluster: str | None
) -> None:
    monkeypatch.setattr(moved, "RECORDED_SECONDS", 0.0)
    if not scheduler:
        monkeypatch.delenv(SCHEDULER)
    if cluster:
        submitted(store, cluster)
    require_not_moved(store, RUN)
