"""Runs as jobs of a cluster: how far they are in the store, and how they are held at a known place."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
from clusters import until
from support.runs import ROOT, settings

from cefr_batch.records.layout import WorkDir, run_level
from cefr_batch.runner.evaluations import read_evaluations
from cefr_batch.store import Store

# Some minutes of a tiny model, with checkpoints: long enough to be disturbed, whatever the machine.
LONG = [
    "model.alias=tiny",
    "data.examples=60",
    "training.max_length=1024",  # the tiny tokenizer cuts words small
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
SEARCH = [
    *LONG,
    "training.epochs=6",
    "generation.examples=0",
    "lora.rank=2,4,8",
    "training.learning_rate=1e-4..1e-2:log",
]
STUDY, TRIAL = "tiny-b1-peft-s1", "tiny-b1-peft-s1-t1"


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
        if "cefr_batch.job.child" in words and words[-1] == "train" and any(word.endswith(folder) for word in words):
            found.append(process)
    return found


def freeze_training(store: Store, run: str) -> None:
    """Stop a run's training some steps after its newest checkpoint: what is done to it then hits it there, however fast
    the machine is. Slurm itself wakes what it preempts (SIGCONT)."""
    until(lambda: _is_frozen_between_checkpoints(store, run))


def _is_frozen_between_checkpoints(store: Store, run: str) -> bool:
    """Freeze it, and let it go on where a checkpoint that was on its way to the store turns out to be of the last step."""
    if step(store, run) <= checkpoint(store, run) + 2 or len(training(store, run)) != 1:
        return False
    (process,) = training(store, run)
    process.suspend()
    until(lambda: process.status() == psutil.STATUS_STOPPED)
    for _ in range(2):  # heartbeats: by then all that it wrote is stored
        beat = updated_at(store, run)
        until(lambda beat=beat: updated_at(store, run) != beat)  # type: ignore[misc]
    if step(store, run) > checkpoint(store, run):
        return True
    process.resume()
    return False


def begin_here(store: Store, values: Sequence[str], env: dict[str, str] | None = None) -> str:
    """A run of B1 that began on this machine, and was killed there some steps after a checkpoint; returns its name."""
    words = ["submit", "--level", "B1", "--cluster", "local", "--json", *settings(*values)]
    (submitted,) = json.loads(cefr_batch(*words, store=store.url, env=env))["runs"]
    run = str(submitted["run"])
    until(lambda: checkpoint(store, run) > 0)
    freeze_training(store, run)
    (process,) = training(store, run)
    job = process.parents()[0]
    job.kill()
    psutil.wait_procs([process, job], timeout=60)
    assert not training(store, run)
    return run


def updated_at(store: Store, run: str) -> str:
    """When the job wrote its status last."""
    return str(store.get_json(f"runs/{run}/status.json")["updated_at"])


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


def assert_crossed(store: Store, runs: Sequence[str]) -> None:
    """Each run's model was evaluated on the sets of all others before the report was made, which compares them."""
    levels = {run: str(run_level(run)) for run in runs}
    report = store.get_json(f"reports/{runs[0]}/report.json")["matrix"]
    assert report["columns"] == list(levels.values())
    for run, level in levels.items():
        assert {one.task.label for one in read_evaluations(store, run)} == {*levels.values()} - {level}
        (row,) = [row for row in report["rows"] if row["model"] == level]
        assert [cell["own"] for cell in row["cells"]] == [of == level for of in levels.values()]
        assert all(cell["response"]["loss"] > 0 and cell["response"]["to_base"] for cell in row["cells"])


def search(store: Store, model: object, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Begin a search of nine trials."""
    words = settings(f"model.name={model}", "backend=peft", *SEARCH)
    cefr_batch("search", "--level", "B1", *words, "--trials", "9", *arguments, store=store.url, env=env)


def assert_same_search(store: Store, other: Store) -> None:
    """Both came to the same trials, figures and winner, whose adapter is the same to the bit, in fewer steps than a grid."""
    one, two = (json.loads(cefr_batch("search", "show", STUDY, "--json", store=each.url)) for each in (store, other))
    assert one["best"]
    assert one["best"] == two["best"]
    assert one["runs"] == two["runs"]
    print(f"{one['trained_steps']} of {one['grid_steps']} steps")
    assert one["trained_steps"] <= 0.45 * one["grid_steps"]
    assert adapter_sha256(store, one["best"]) == adapter_sha256(other, one["best"])
