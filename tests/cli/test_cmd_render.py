"""render: the manifests of runs that are in the store from then on; no cluster, no client of one. And what starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters.s3 import Server

from cefr_batch import layout
from cefr_batch.data import fetch_dataset
from cefr_batch.launch.base import Batch, JobOrder
from cefr_batch.launch.k8s.manifest import render
from cefr_batch.launch.k8s.site import load_site
from cefr_batch.run import entry
from cefr_batch.spec import load_spec, recorded_spec
from cefr_batch.store import Store, open_store
from cefr_batch.store.local import LocalStore

Run = Callable[..., Any]

# Stands in for a machine without the Kubernetes client, and without a kubeconfig.
WITHOUT_CLIENT = """
import sys
sys.modules["kubernetes"] = None
from cefr_batch.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def tiny(tiny_model: Path) -> tuple[str, ...]:
    """Options that make a submit quick to check."""
    settings = {"model.name": tiny_model, "model.alias": "tiny", "data.examples": 20, "training.max_length": 2000}
    return ("--profile", "smoke", *(part for key, value in settings.items() for part in ("--set", f"{key}={value}")))


@pytest.fixture
def bucket(aws: None, server_of: Callable[[str], Server]) -> Store:
    return open_store(server_of("moto").url(f"render/{uuid.uuid4().hex}"))


@pytest.fixture
def alone(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs cefr-batch where there is no client and no cluster."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "KUBECONFIG": str(tmp_path / "nowhere"), "HOME": str(tmp_path)}
        command = [sys.executable, "-c", WITHOUT_CLIENT, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    return run


def test_render_prints_manifests_alone_and_the_store_has_what_the_runs_need(
    alone: Run, tiny: tuple[str, ...], bucket: Store, tmp_path: Path
) -> None:
    levels = ("--level", "A1", "--level", "B1")
    done = alone("render", *levels, "--cluster", "k8s", *tiny, "--store", bucket.url)
    assert done.returncode == 0, done.stderr
    runs = ["tiny-a1-unsloth-v1", "tiny-b1-unsloth-v1"]
    assert bucket.folders("runs/") == runs
    orders = tuple(JobOrder(run, bucket.url) for run in runs)
    report = bucket.url.replace("?", f"/reports/{runs[0]}?")
    assert tuple(yaml.safe_load_all(done.stdout)) == render(load_site("default"), Batch(orders, report)).objects
    assert done.stderr.splitlines()[-1].endswith("to be started by what was printed")
    for run in runs:
        record = bucket.get_json(layout.run_key(run, layout.SPEC))
        assert len(fetch_dataset(bucket, record["dataset"], tmp_path / run).train) == 18
        assert not bucket.exists(layout.run_key(run, layout.SUBMISSION)), "nobody has started it"


def test_a_dry_run_prints_the_same_and_leaves_nothing(alone: Run, tiny: tuple[str, ...], bucket: Store) -> None:
    arguments = ("--level", "B1", "--cluster", "k8s/gke-l4", *tiny, "--store", bucket.url)
    dry = alone("submit", *arguments, "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    assert bucket.folders("runs/") == []
    real = alone("render", *arguments)
    assert real.returncode == 0, real.stderr
    assert json.loads(dry.stdout)["request"].strip() == real.stdout.strip()


def test_a_store_that_pods_do_not_see_leaves_no_name_taken(
    cefr_batch: Run, tiny: tuple[str, ...], store: LocalStore
) -> None:
    result = cefr_batch("render", "--level", "B1", "--cluster", "k8s", *tiny)
    assert (result.code, result.out) == (1, "")
    assert "is a folder of this machine, which no pod sees" in result.err
    assert store.folders("runs/") == []


def test_every_problem_is_told_and_nothing_is_printed(
    cefr_batch: Run, tiny: tuple[str, ...], store: LocalStore
) -> None:
    result = cefr_batch("render", "--level", "B1", "--cluster", "k8s", *tiny, "--set", "training.max_length=30")
    assert (result.code, result.out) == (1, "")
    assert "training.max_length" in result.err
    assert store.folders("runs/") == []


# run-job, as the pods of an Indexed Job and of k8s/base call it.


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that were carried out. Stands in for the job itself."""
    done: list[str] = []
    monkeypatch.setattr(entry, "run_job", lambda store, run, work, gpus: done.append(run))
    return done


def test_a_pod_of_an_indexed_job_takes_its_run(
    cefr_batch: Run, jobs: list[str], store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [f"tiny-{level}-peft-v1" for level in ("a1", "a2", "b1")]
    for run in runs:
        store.put_json(layout.run_key(run, layout.SPEC), {})
    for index in ("2", "0"):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
        assert cefr_batch("run-job", *runs).code == 0
    assert jobs == [runs[2], runs[0]]
    for index in ("3", "-1", "", "x"):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
        result = cefr_batch("run-job", *runs)
        assert result.code == 2, "which a Job does not try again"
        assert f"JOB_COMPLETION_INDEX is '{index}', but must say which of 3 runs is meant" in result.err
    assert len(jobs) == 2


def test_a_job_begins_the_run_of_its_name_once_and_then_goes_on(
    cefr_batch: Run, tiny: tuple[str, ...], jobs: list[str], store: LocalStore, tmp_path: Path
) -> None:
    run = "team-tiny-b1-peft-v7"
    settings = tmp_path / "settings.yaml"
    settings.write_text("backend: peft\ntraining: {seed: 7}\n")
    model = tiny[2:]
    for _ in range(2):  # the second one is the pod after an eviction
        result = cefr_batch("run-job", run, "--level", "B1", "--profile", str(settings), *model)
        assert result.code == 0, result.err
    assert jobs == [run, run]
    record = store.get_json(layout.run_key(run, layout.SPEC))
    spec = recorded_spec(record, "spec.json")
    assert spec == load_spec("B1", profile=str(settings), overrides=model[1::2])
    assert len(fetch_dataset(store, record["dataset"], tmp_path / "data").train) == 18
    settings.write_text("backend: peft\ntraining: {seed: 8}\n")
    result = cefr_batch("run-job", run, "--level", "B1", "--profile", str(settings), *model)
    assert result.code == 2
    assert f"the store has a run {run} with other settings; give this one another name" in result.err
    assert len(jobs) == 2


def test_a_job_that_cannot_begin_its_run_says_why_and_takes_no_name(
    cefr_batch: Run, tiny: tuple[str, ...], jobs: list[str], store: LocalStore
) -> None:
    result = cefr_batch("run-job", "Not_A_Name", "--level", "B1", *tiny)
    assert (result.code, "is not a run's name" in result.err) == (2, True)
    result = cefr_batch("run-job", "tiny-b1-peft-v1", "--level", "B1", *tiny, "--set", "training.max_length=30")
    assert (result.code, "training.max_length" in result.err) == (1, True)
    assert (jobs, store.folders("runs/")) == ([], [])
