"""Must show: kill -9 at random moments over a run (ten by `make e2e-long`), resumed each time, ends as if nothing had
happened; so does one that starts from another run's adapter and stops early.

After every second kill the machine's own folder is gone too: what resumes then has nothing but the store.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import psutil
import pytest
from support.runs import cefr_batch, read, runs, same_as, settings

from cefr_batch.records.layout import WorkDir, default_work_root

pytestmark = pytest.mark.e2e

DELETED = ", its folder deleted"
SETTINGS = [
    "backend=peft",
    "data.examples=120",
    "lora.rank=4",
    "evaluation.max_examples=6",
    "generation.examples=2",
    "generation.max_new_tokens=8",
    "training.batch_size=2",
    "training.gradient_accumulation_steps=1",
    "training.epochs=20",
    "training.eval_steps=30",
    "training.logging_steps=7",
]


# What a run does besides. The learning rate is one at which the loss soon rises.
KINDS = {
    "plain": [],
    "from an adapter, stopping early": [
        "model.adapter={adapter}",
        "training.loss_on=response",
        "training.early_stopping=15",
        "training.learning_rate=0.1",
        "training.lr_scheduler=constant",
    ],
}
LONG = bool(os.environ.get("CEFR_BATCH_TEST_LONG"))
KILLS = 10 if LONG else 4


def submit(model: Path, store: Path, kind: str, *extra: str) -> str:
    values = [f"model.name={model}", *SETTINGS]
    if kind != "plain":
        first = [*values, "training.epochs=1"]
        cefr_batch("submit", "--level", "A1", *settings(*first), "--wait", store=store)
    before = list(runs(store)) if store.is_dir() else []
    own = [one.format(adapter="".join(before)) for one in KINDS[kind]]
    cefr_batch("submit", "--level", "B1", *settings(*values, *own), *extra, store=store)
    (run,) = set(runs(store)) - set(before)
    return run


def job_process(folder: Path) -> psutil.Process | None:
    """The job's process, while it lives."""
    handle = json.loads((folder / "submission.json").read_text())["handle"]
    try:
        process = psutil.Process(int(handle.rpartition("/")[2]))
        return process if process.is_running() and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def wait_until_gone(processes: Sequence[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive, f"these outlived their job: {alive}"


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_moments(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    if kind != "plain" and not LONG:
        pytest.skip("takes minutes: make e2e-long; tests/job/test_killed.py kills such a run three times")
    undisturbed, store = tmp_path / "undisturbed", tmp_path / "killed"
    started = time.monotonic()
    reference = submit(tiny_model, undisturbed, kind, "--wait")
    whole = time.monotonic() - started
    assert (undisturbed / "runs" / reference / "manifest.json").is_file()
    figures = json.loads((undisturbed / "runs" / reference / "metrics.json").read_text())
    assert ("stopped_early" in figures["train"]) == (kind != "plain")
    assert ("adapter" in figures) == (kind != "plain")

    seed = os.environ.get("CEFR_BATCH_TEST_SEED") or str(time.time_ns())
    print("CEFR_BATCH_TEST_SEED:", seed)
    dice = random.Random(seed)
    run = submit(tiny_model, store, kind)
    folder = store / "runs" / run
    moments: list[str] = []
    for kill in range(KILLS):
        # Short of what ten of them would need to finish the run; a random moment has no condition to wait for.
        time.sleep(dice.uniform(0, whole / 6))
        kill_and_resume(run, store, moments, forget=kill % 2 == 1)
    wait_for_stage(folder, {"tuned", "generate", "merge"})
    kill_and_resume(run, store, moments, forget=True)
    assert moments[-1].endswith(DELETED)
    print("killed at:", "; ".join(moments))
    last = job_process(folder)
    if last is not None:
        psutil.wait_procs([last], timeout=1200)
    same_as(partial(read, undisturbed / "runs" / reference), partial(read, folder))
    assert len(list((folder / "logs").iterdir())) >= KILLS / 2, "most kills should have hit a job at work"


def kill_and_resume(run: str, store: Path, moments: list[str], *, forget: bool) -> None:
    folder = store / "runs" / run
    process = job_process(folder)
    assert process is not None, f"the job ended by itself after {moments}: make the run longer"
    family = [process, *process.children(recursive=True)]
    process.send_signal(signal.SIGKILL)
    wait_until_gone(family)
    work = WorkDir.of(default_work_root(), store.as_uri(), run).root
    deleted = forget and work.is_dir()  # a job that was killed at once has not made it yet
    if deleted:
        shutil.rmtree(work)
    moments.append(where(folder) + (DELETED if deleted else ""))
    cefr_batch("resume", run, store=store)


def wait_for_stage(folder: Path, stages: set[str]) -> None:
    while where(folder).split()[0] not in stages:
        assert job_process(folder), "the job ended by itself"
        time.sleep(0.05)


def where(folder: Path) -> str:
    """The stage and step that the job told last."""
    try:
        status = json.loads((folder / "status.json").read_text())
    except FileNotFoundError:
        return "before its first sign of life"
    return f"{status['stage']} {status['step']}"
