"""Runs of the tiny model: claimed in a store for a whole job, or as a work folder for one stage of it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import RunSpec
from cefr_batch.data import load_dataset
from cefr_batch.errors import StoreError
from cefr_batch.records import layout
from cefr_batch.records.document import read_file, write_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.stages import StageRecord, TrainResult
from cefr_batch.records.status import Progress
from cefr_batch.records.timestamps import now
from cefr_batch.runner.submission import claim
from cefr_batch.store.datasets import store_dataset
from cefr_batch.store.local import LocalStore

SETTINGS = ["backend=peft", "data.examples=40", "data.words_per_example=3", "lora.rank=4", "evaluation.max_examples=4"]
SETTINGS += ["training.batch_size=2", "training.gradient_accumulation_steps=1", "training.max_steps=8"]
SETTINGS += [
    "training.eval_steps=2",
    "training.logging_steps=3",
    "generation.examples=2",
    "generation.max_new_tokens=8",
]


def claimed_run(store: LocalStore, model: Path, *extra: str) -> str:
    spec = load_spec("A2", overrides=[f"model.name={model}", *SETTINGS, *extra])
    dataset = load_dataset(spec.data, spec.level)
    store_dataset(store, dataset)
    (run,) = claim(store, [(spec, dataset.sha256)])
    return run


def start_job(store: LocalStore, run: str, work: Path | None = None) -> subprocess.Popen[str]:
    """The whole job, in a process of its own. ``work``: the folder of all jobs, if not this user's."""
    command = [sys.executable, "-m", "cefr_batch", "run-job", run, "--store", store.url]
    command += ["--work", str(work)] if work else []
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def stored(store: LocalStore, run: str, name: str) -> Any:
    return store.get_json(layout.run_key(run, name))


def adapter(work: WorkDir) -> bytes:
    """The weights that training left."""
    return work.path(layout.ADAPTER_WEIGHTS).read_bytes()


def work_folder(root: Path, spec: RunSpec) -> WorkDir:
    """A job's folder as the job finds it after fetching its data."""
    work = WorkDir(root)
    data = load_dataset(spec.data, spec.level)
    for folder in (work.tmp, work.dataset):
        folder.mkdir(parents=True)
    (work.dataset / layout.TRAIN_FILE).write_bytes(data.train_bytes)
    (work.dataset / layout.EVAL_FILE).write_bytes(data.eval_bytes)
    settings = spec.model_dump(mode="json")
    record = SpecRecord(run=root.name, dataset=data.sha256, spec=settings, submitted_at=now())
    write_file(work.path(layout.SPEC), record)
    return work


def trained(work: WorkDir) -> TrainResult:
    """What the training stage found out."""
    return read_file(StageRecord[TrainResult], work.path(layout.stage_name("train"))).result


# The stage process as the job starts it, with this process as its parent.
_CHILD = (
    "import os, sys; from cefr_batch.job.child import main; sys.exit(main([sys.argv[1], str(os.getppid()), 'train']))"
)


def start_training(work: WorkDir) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(work.root)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_step(work: WorkDir, process: subprocess.Popen[str], step: int) -> None:
    while process.poll() is None:
        try:
            if (read_file(Progress, work.progress).step or 0) >= step:
                return
        except (OSError, StoreError):
            pass
        time.sleep(0.01)
    raise AssertionError(f"training ended early: {process.communicate()[0]}")
