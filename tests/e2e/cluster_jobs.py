"""Runs as jobs of a cluster: how far they are in the store, and how they are held at a known place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
from clusters import until
from runs import ROOT

from cefr_batch.layout import WorkDir
from cefr_batch.store import Store

# Some minutes of a tiny model, with checkpoints: long enough to be disturbed, whatever the machine.
LONG = [
    "model.alias=tiny",
    "data.examples=60",
    "lora.rank=4",
    "evaluation.max_examples=4",
    "generation.examples=2",
    "generation.max_new_tokens=8",
    "training.batch_size=2",
    "training.gradient_accumulation_steps=1",
    "training.epochs=30",
    "training.eval_steps=40",
]
SHORT = [*LONG, "training.epochs=1"]


def cefr_batch(*arguments: str, store: str, code: int = 0, env: dict[str, str] | None = None) -> str:
    """Run a command; it must end with this code. Returns what it printed to standard output or, if it failed, to standard
    error."""
    command = [sys.executable, "-m", "cefr_batch", *arguments, "--store", store]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def step(store: Store, run: str) -> int:
    """The step that the run's job is at in training; 0 before."""
    key = f"runs/{run}/status.json"
    status = store.get_json(key) if store.exists(key) else {}
    return int(status["step"] or 0) if (status.get("stage"), status.get("state")) == ("train", "RUNNING") else 0


def attempt(store: Store, run: str) -> int:
    """The number of the job that wrote the run's status; 0 before."""
    key = f"runs/{run}/status.json"
    return int(store.get_json(key)["attempt"]) if store.exists(key) else 0


def checkpoint(store: Store, run: str) -> int:
    """The step of the newest stored checkpoint; 0 without one."""
    names = store.folders(f"runs/{run}/checkpoints/")
    return max((int(name.removeprefix("step-")) for name in names), default=0)


def training(store: Store, run: str) -> list[psutil.Process]:
    """The processes that train a run."""
    folder = str(WorkDir.of(Path(), store.url, run).root)  # wherever it is mounted
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "cefr_batch.run.stages" in words and words[-1] == "train" and any(word.endswith(folder) for word in words):
            found.append(process)
    return found


def freeze_training(store: Store, run: str) -> None:
    """Stop a run's training some steps after its newest checkpoint: what is done to it then hits it there, however fast
    the machine is. Slurm itself wakes what it preempts (SIGCONT)."""
    until(lambda: step(store, run) > checkpoint(store, run) + 2 and len(training(store, run)) == 1)
    (process,) = training(store, run)
    process.suspend()
    until(lambda: process.status() == psutil.STATUS_STOPPED)


def thaw_training(store: Store, run: str) -> None:
    for process in training(store, run):
        process.resume()


def complete(store: Store, run: str) -> bool:
    return store.exists(f"runs/{run}/manifest.json")


def adapter_sha256(store: Store, run: str) -> str:
    objects = store.get_json(f"runs/{run}/manifest.json")["objects"]
    return next(str(o["sha256"]) for o in objects if o["key"] == "adapter/adapter_model.safetensors")


def seen(store: Store, run: str, env: dict[str, str] | None = None) -> tuple[str, str]:
    """A run's state, and the reason for it."""
    (found,) = json.loads(cefr_batch("status", run, "--json", store=store.url, env=env))["runs"]
    return str(found["state"]), str(found["reason"])


def state_of(store: Store, run: str) -> str:
    return seen(store, run)[0]
