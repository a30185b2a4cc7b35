"""Must show: runs on a real Slurm, whatever Slurm does to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters import slurm
from clusters.slurm import until
from runs import ROOT, settings

from cefr_batch.store import Store, open_store

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("aws")]

# Some minutes of a tiny model, with checkpoints: long enough to be disturbed, whatever the machine.
LONG = [
    "model.alias=tiny",
    "data.examples=60",
    "lora.rank=4",
    "evaluation.max_examples=4",
    "training.batch_size=2",
    "training.gradient_accumulation_steps=1",
    "training.epochs=36",
    "training.eval_steps=40",
]
SHORT = [*LONG, "training.epochs=1"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    if why := slurm.why_not():
        (pytest.fail if os.environ.get("CEFR_BATCH_REQUIRE_ALL") else pytest.skip)(why)
    with slurm.cluster():
        yield


@pytest.fixture
def site(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes the site file ``e2e``, whose shared folder is this test's own."""
    sites = tmp_path / "sites"
    sites.mkdir()
    monkeypatch.setenv("CEFR_BATCH_SLURM", str(sites))
    monkeypatch.delenv("CEFR_BATCH_CACHE")  # the site's own
    models = Path(os.environ.get("CEFR_BATCH_TEST_MODELS", tmp_path / "cache" / "models"))
    shared = tmp_path / "shared folder"
    (shared / "cache").mkdir(parents=True)
    (shared / "cache" / "models").symlink_to(models)

    def write(**more: object) -> None:
        base = {
            "cpus": 1,
            "memory": "2G",
            "time": "00:20:00",
            "signal_seconds": 30,
            "backend": "peft",
            "check_gpu": False,
        }
        values = {"extends": "default", **base, "shared": str(shared), **more}
        (sites / "default.yaml").write_bytes((ROOT / "slurm" / "default.yaml").read_bytes())
        (sites / "e2e.yaml").write_text(json.dumps(values))

    write()
    return write


def cefr_batch(*arguments: str, store: str, code: int = 0, env: dict[str, str] | None = None) -> str:
    """Run a command; it must end with this code. Returns what it printed."""
    command = [sys.executable, "-m", "cefr_batch", *arguments, "--store", store]
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == code, done.stdout
    return done.stdout


def submit(model: Path, values: list[str], store: str, *levels: str) -> list[str]:
    """Submit runs of the tiny model; returns their names."""
    words = ["submit", *(word for level in levels for word in ("--level", level)), "--cluster", "slurm/e2e", "--json"]
    printed = cefr_batch(*words, *settings(f"model.name={model}", *values), store=store)
    return [run["run"] for run in json.loads(printed)["runs"]]


def job_of(store: Store, run: str) -> str:
    handle = str(store.get_json(f"runs/{run}/submission.json")["handle"])
    assert handle.startswith("slurm://e2e/")
    return handle.rpartition("/")[2]


def step(store: Store, run: str) -> int:
    """The step that the run's job is at in training; 0 before."""
    key = f"runs/{run}/status.json"
    status = store.get_json(key) if store.exists(key) else {}
    return int(status["step"] or 0) if (status.get("stage"), status.get("state")) == ("train", "RUNNING") else 0


def checkpoint(store: Store, run: str) -> int:
    """The step of the newest stored checkpoint; 0 without one."""
    names = store.folders(f"runs/{run}/checkpoints/")
    return max((int(name.removeprefix("step-")) for name in names), default=0)


def complete(store: Store, run: str) -> bool:
    return store.exists(f"runs/{run}/manifest.json")


def adapter_sha256(store: Store, run: str) -> str:
    objects = store.get_json(f"runs/{run}/manifest.json")["objects"]
    return next(str(o["sha256"]) for o in objects if o["key"] == "adapter/adapter_model.safetensors")


def state_of(store: Store, run: str, env: dict[str, str] | None = None) -> str:
    (found,) = json.loads(cefr_batch("status", run, "--json", store=store.url, env=env))["runs"]
    return str(found["state"])


def test_disturbed_runs_end_with_the_same_adapter_as_one_left_alone(
    site: Callable[..., None], tiny_model: Path, tmp_path: Path
) -> None:
    """One run is preempted twice and loses its node once; one comes to its time limit; one is left alone."""
    store = open_store(str(tmp_path / "store"))
    (first,) = submit(tiny_model, LONG, store.url, "B1")
    (second,) = submit(tiny_model, LONG, store.url, "B1")
    job, limited = job_of(store, first), job_of(store, second)

    until(lambda: step(store, second) > 20)
    slurm.run("scontrol", "update", f"jobid={limited}", "TimeLimit=1")
    for _ in range(2):
        until(lambda: step(store, first) > checkpoint(store, first) + 5)
        slurm.preempt(job)
        assert state_of(store, first) == "PENDING"
        slurm.start_now(job)
    until(lambda: step(store, first) > checkpoint(store, first) + 5)
    lost = slurm.node(job)
    slurm.script("kill-node", lost)
    until(lambda: slurm.state(limited) == "PENDING" or complete(store, second))
    slurm.run("scontrol", "update", f"jobid={limited}", "TimeLimit=20")
    slurm.start_now(limited)
    until(lambda: slurm.state(job) == "PENDING")
    slurm.bring_back(lost, job)
    third = submit(tiny_model, LONG, store.url, "B1")[0]
    for run in (first, second, third):
        until(lambda run=run: complete(store, run))  # type: ignore[misc]

    metrics = {run: store.get_json(f"runs/{run}/metrics.json") for run in (first, second, third)}
    print({run: (found["attempts"], found["repeated_steps"]) for run, found in metrics.items()})
    assert [metrics[run]["attempts"] for run in (first, second, third)] == [4, 2, 1]
    assert adapter_sha256(store, first) == adapter_sha256(store, second) == adapter_sha256(store, third)
    assert metrics[first]["log"] == metrics[third]["log"] == metrics[second]["log"]


def test_an_array_of_levels_and_the_report_after_it(
    site: Callable[..., None], tiny_model: Path, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "store"))
    runs = submit(tiny_model, SHORT, store.url, "A1", "A2", "B1")
    jobs = [job_of(store, run) for run in runs]
    array = jobs[0].partition("_")[0]
    assert jobs == [f"{array}_{n}" for n in range(3)]
    queued = slurm.run("squeue", "--noheader", "--format=%j|%E").splitlines()
    assert [line for line in queued if line.startswith("cefr-batch-report|afterany:")]
    report = f"reports/{runs[0]}/report.json"
    until(lambda: store.exists(report))
    levels = [level["level"] for level in store.get_json(report)["levels"]]
    assert levels == ["A1", "A2", "B1"]
    assert all(complete(store, run) for run in runs)
    markdown = store.get(f"reports/{runs[0]}/report.md").decode()
    assert all(run in markdown for run in runs)
