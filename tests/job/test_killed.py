"""The short form of tests/e2e/test_resume.py: a run that starts from an adapter and stops early, killed where it matters."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.job_runs import claimed_run, start_job, stored

from cefr_batch.records import layout
from cefr_batch.runner.submission import newest_attempt
from cefr_batch.store.local import LocalStore

FIRST = ["training.max_steps=2", "training.eval_steps=2"]
SECOND = ["training.max_steps=900", "training.eval_steps=5", "training.logging_steps=4", "training.early_stopping=8"]
SECOND += ["training.learning_rate=0.1", "training.lr_scheduler=constant", "training.loss_on=response"]


def chain(store: LocalStore, model: Path, work: Path) -> str:
    """A run that is ready to start from the adapter of a complete one."""
    first = claimed_run(store, model, *FIRST)
    job = start_job(store, first, work)
    output, _ = job.communicate()
    assert job.returncode == 0, output
    return claimed_run(store, model, *SECOND, f"model.adapter={first}")


def kill_when(job: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    while not reached():
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.01)
    children = psutil.Process(job.pid).children(recursive=True)
    job.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    job.communicate()


@pytest.mark.slow
def test_killed_before_while_and_after_it_waits_for_a_lower_loss(tiny_model: Path, tmp_path: Path) -> None:
    """Each attempt has another machine's empty folder: what it goes on from is the store's."""
    alone = LocalStore(tmp_path / "alone")
    reference = chain(alone, tiny_model, tmp_path / "work")
    job = start_job(alone, reference, tmp_path / "work")
    output, _ = job.communicate()
    assert job.returncode == 0, output
    expected = stored(alone, reference, layout.METRICS)
    best, last = expected["best"]["step"], expected["train"]["steps"]
    assert expected["train"]["stopped_early"] == {"evaluations": 8, "planned_steps": 900}
    assert last == best + 40

    store = LocalStore(tmp_path / "store")
    run = chain(store, tiny_model, tmp_path / "work")
    moments: list[Callable[[], bool]] = [
        lambda: step(store, run) >= 1,  # no checkpoint yet: it starts from the adapter again
        lambda: checkpoint(store, run) >= best + 15,
        lambda: newest_attempt(store, run) == 3 and checkpoint(store, run) >= last,  # it must not go on
    ]
    for number, reached in enumerate(moments):
        work = tmp_path / f"machine-{number}"
        kill_when(start_job(store, run, work), reached)
        shutil.rmtree(work, ignore_errors=True)  # the kill may come before it is made
    job = start_job(store, run, tmp_path / "last-machine")
    output, _ = job.communicate()
    assert job.returncode == 0, output
    found = stored(store, run, layout.METRICS)
    for key in ("log", "best", "baseline", "tuned", "adapter", "generation", "merge"):
        assert found[key] == expected[key], key
    for key in ("steps", "epochs", "stopped_early"):
        assert found["train"][key] == expected["train"][key], key
    assert found["attempts"] == 4
    assert weights(store, run) == weights(alone, reference)


def step(store: LocalStore, run: str) -> int:
    key = layout.run_key(run, layout.STATUS)
    status: dict[str, Any] = store.get_json(key) if store.exists(key) else {}
    return (status["step"] or 0) if status.get("stage") == "train" else 0


def checkpoint(store: LocalStore, run: str) -> int:
    """The newest complete one in the store."""
    prefix = layout.run_key(run, layout.CHECKPOINTS) + "/step-"
    markers = (o.key for o in store.objects(prefix) if o.key.endswith(layout.CHECKPOINT_MANIFEST))
    return max((int(key.removeprefix(prefix).partition("/")[0]) for key in markers), default=0)


def weights(store: LocalStore, run: str) -> str:
    objects = stored(store, run, layout.MANIFEST)["objects"]
    return next(str(o["sha256"]) for o in objects if o["key"] == layout.ADAPTER_WEIGHTS)
