"""render: manifests whose jobs claim their runs, without network and credentials, or of runs that are claimed at once; no
cluster, no client of one. And what starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters.s3 import Server

from cefr_batch.config.load import load_spec, recorded_spec
from cefr_batch.config.schema import RunSpec
from cefr_batch.job import supervisor as entry
from cefr_batch.records import layout
from cefr_batch.runner.unclaimed import unclaimed_name
from cefr_batch.schedulers.base import JobGroup, JobSpec
from cefr_batch.schedulers.k8s.manifest import render
from cefr_batch.schedulers.k8s.site import load_site
from cefr_batch.store import Store, open_store
from cefr_batch.store.datasets import fetch_dataset
from cefr_batch.store.local import LocalStore

Run = Callable[..., Any]

# Stands in for a machine without the Kubernetes client and without a kubeconfig, where object-store is this machine.
WITHOUT_CLIENT = """
import socket, sys
sys.modules["kubernetes"] = None
found = socket.getaddrinfo
socket.getaddrinfo = lambda host, *more, **options: found(
    "127.0.0.1" if host == "object-store" else host, *more, **options
)
from cefr_batch.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
# Stands in for a machine without a network: there are no sockets.
WITHOUT_NETWORK = """
import socket, sys
def cut(*_, **__):
    raise OSError("the network was asked")
socket.socket.__init__ = socket.getaddrinfo = socket.create_connection = cut
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

    def run(*arguments: str, program: str = WITHOUT_CLIENT) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "KUBECONFIG": str(tmp_path / "nowhere"), "HOME": str(tmp_path)}
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    return run


@pytest.fixture
def cut_off(alone: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """As ``alone``, without a network and without credentials."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    return partial(alone, program=WITHOUT_NETWORK)


def as_pods_reach(store: Store) -> str:
    """The store's address by a name that is not this machine's alone."""
    return store.url.replace("127.0.0.1", "object-store")


@pytest.mark.slow
def test_render_prints_manifests_alone_and_the_store_has_what_the_runs_need(
    alone: Run, tiny: tuple[str, ...], bucket: Store, tmp_path: Path
) -> None:
    levels = ("--level", "A1", "--level", "B1")
    url = as_pods_reach(bucket)
    done = alone("render", "--claim", *levels, "--cluster", "k8s", *tiny, "--store", url)
    assert done.returncode == 0, done.stderr
    runs = ["tiny-a1-unsloth-v1", "tiny-b1-unsloth-v1"]
    assert bucket.folders("runs/") == runs
    orders = tuple(JobSpec(run, url) for run in runs)
    report = url.replace("?", f"/reports/{runs[0]}?")
    assert tuple(yaml.safe_load_all(done.stdout)) == render(load_site("default"), JobGroup(orders, report)).objects
    assert done.stderr.splitlines()[-1].endswith("start them with the printed text")
    for run in runs:
        record = bucket.get_json(layout.run_key(run, layout.SPEC))
        assert len(fetch_dataset(bucket, record["dataset"], tmp_path / run).train) == 18
        assert not bucket.exists(layout.run_key(run, layout.SUBMISSION)), "nobody has started it"


@pytest.mark.slow
def test_a_dry_run_prints_the_same_and_leaves_nothing(alone: Run, tiny: tuple[str, ...], bucket: Store) -> None:
    arguments = ("--level", "B1", "--cluster", "k8s/gke-l4", *tiny, "--store", as_pods_reach(bucket))
    dry = alone("submit", *arguments, "--dry-run", "--json")
    assert dry.returncode == 1, dry.stderr  # submit needs the client, render does not
    assert bucket.folders("runs/") == []
    real = alone("render", "--claim", *arguments)
    assert real.returncode == 0, real.stderr
    assert json.loads(dry.stdout)["request"].strip() == real.stdout.strip()


def test_a_store_that_pods_do_not_see_leaves_no_name_taken(
    cefr_batch: Run, tiny: tuple[str, ...], store: LocalStore
) -> None:
    for way in ((), ("--claim",)):
        result = cefr_batch("render", *way, "--level", "B1", "--cluster", "k8s", *tiny)
        assert (result.code, result.out) == (1, "")
        assert "is a folder of this machine, which pods cannot reach" in result.err
    assert store.folders("runs/") == []


@pytest.mark.parametrize(
    "host", ["localhost:9000", "127.0.0.1", "127.8.8.8:80", "[::1]:9000", "0.0.0.0", "s3.localhost"]
)
def test_an_endpoint_that_is_another_machine_in_each_pod_is_refused(cefr_batch: Run, host: str) -> None:
    store = f"s3://bucket/prefix?endpoint_url=http://{host}"
    result = cefr_batch("render", "--level", "B1", "--cluster", "k8s", "--store", store)
    assert (result.code, result.out) == (1, "")
    assert f"the store's endpoint http://{host} is this machine itself, and in a pod it is the pod" in result.err


@pytest.mark.slow
def test_without_network_and_credentials_the_same_settings_give_the_same_bytes(cut_off: Run) -> None:
    words = ("render", "--cluster", "k8s", "--store", "s3://bucket/prefix", "--set", "training.seed=1..2")
    first, again = (cut_off(*words, "--level", "A1,B1") for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout
    objects = list(yaml.safe_load_all(first.stdout))
    runs = [item["metadata"]["name"] for item in objects[:-1]]
    assert [layout.run_level(run) for run in runs] == ["A1", "A1", "B1", "B1"]
    assert len(set(runs)) == 4, "each seed is a run of its own"
    (alone,) = yaml.safe_load_all(cut_off(*words[:-1], "training.seed=2", "--level", "B1").stdout)
    assert alone == objects[3], "whatever else is rendered with it"
    assert runs == objects[-1]["spec"]["template"]["spec"]["containers"][0]["args"][1:5], "which the report waits for"


@pytest.mark.slow
def test_an_image_without_the_runs_backend_is_a_warning_and_the_manifest_is_printed(
    cut_off: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "k8s").mkdir()
    (tmp_path / "k8s" / "mine.yaml").write_text("extends: default\nimage: r.example.org/cefr-batch:1-cpu\ngpus: 0\n")
    arguments = ("render", "--level", "A1", "--cluster", "k8s/mine", "--store", "s3://bucket/prefix")
    told = cut_off(*arguments)
    assert told.returncode == 0, told.stderr
    assert "k8s/mine.yaml: image: r.example.org/cefr-batch:1-cpu has the name of an image for CPUs" in told.stderr
    well = cut_off(*arguments, "--set", "backend=peft")
    assert "image for CPUs" not in well.stderr
    assert "kind: Job" in well.stdout
    refused = cut_off(*arguments, "--set", "data.source=mine.csv")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "mine.csv is a file of this machine" in refused.stderr
    assert refused.stderr.count("image for CPUs") == 1, "a warning is shown beside problems"


@pytest.mark.slow
def test_data_that_only_this_machine_has_needs_a_claim(cut_off: Run, tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text("word,sentence\n")
    words = ("render", "--level", "B1", "--cluster", "k8s", "--store", "s3://bucket/prefix")
    done = cut_off(*words, "--set", f"data.source={tmp_path / 'my.csv'}")
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        f"data.source: {tmp_path / 'my.csv'} is a file of this machine, which the job cannot read; add --claim"
        in done.stderr
    )
    done = cut_off(*words, "--cross-evaluate")
    assert (done.returncode, "needs --claim" in done.stderr) == (2, True)


def test_every_problem_is_told_and_nothing_is_printed(
    cefr_batch: Run, tiny: tuple[str, ...], store: LocalStore
) -> None:
    result = cefr_batch(
        "render", "--claim", "--level", "B1", "--cluster", "k8s", *tiny, "--set", "training.max_length=30"
    )
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
    for index, problem in (
        ("3", "is 3, but there are 3 runs, 0 to 2; make `completions` of the Job equal to the number of runs"),
        ("-1", "is '-1', which is not a whole number; it must say which of the 3 runs"),
        ("", "is not set; it must say which of the 3 runs"),
        ("x", "is 'x', which is not a whole number; it must say which of the 3 runs"),
    ):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
        result = cefr_batch("run-job", *runs)
        assert result.code == 2, "which a Job does not try again"
        assert f"JOB_COMPLETION_INDEX {problem}" in result.err
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
    spec = recorded_spec(record["spec"], "spec.json")
    assert spec == load_spec("B1", profile=str(settings), overrides=model[1::2])
    assert len(fetch_dataset(store, record["dataset"], tmp_path / "data").train) == 18
    settings.write_text("backend: peft\ntraining: {seed: 8}\n")
    result = cefr_batch("run-job", run, "--level", "B1", "--profile", str(settings), *model)
    assert result.code == 2
    assert f"run {run} already exists in the store with other settings; choose another name" in result.err
    assert len(jobs) == 2


def test_a_job_that_cannot_begin_its_run_says_why_and_takes_no_name(
    cefr_batch: Run, tiny: tuple[str, ...], jobs: list[str], store: LocalStore
) -> None:
    result = cefr_batch("run-job", "Not_A_Name", "--level", "B1", *tiny)
    assert (result.code, "is not a run's name" in result.err) == (2, True)
    result = cefr_batch("run-job", "tiny-b1-peft-v1", "--level", "B1", *tiny, "--set", "training.max_length=30")
    assert (result.code, "training.max_length" in result.err) == (1, True)
    assert (jobs, store.folders("runs/")) == ([], [])


@pytest.mark.slow
def test_a_rendered_job_claims_its_run_when_it_comes_to_life(
    cefr_batch: Run, cut_off: Run, tiny: tuple[str, ...], jobs: list[str], store: LocalStore, tmp_path: Path
) -> None:
    """What the manifest says alone, applied twice: one run, with the settings that were rendered."""
    words = ("render", "--level", "B1", "--cluster", "slurm", *tiny, "--set", "backend=peft", "--store", store.url)
    assert cut_off(*words).returncode == 0
    done = cut_off("render", *words[1:3], "--cluster", "k8s", *words[5:-2], "--store", "s3://bucket/prefix")
    assert done.returncode == 0, done.stderr
    (item,) = yaml.safe_load_all(done.stdout)
    arguments = [one.replace("$$", "$") for one in item["spec"]["template"]["spec"]["containers"][0]["args"]]
    arguments[arguments.index("--store") + 1] = store.url
    del arguments[arguments.index("--gpus") : arguments.index("--gpus") + 2]
    for _ in range(2):
        result = cefr_batch(*arguments)
        assert result.code == 0, result.err
    run = item["metadata"]["name"]
    assert (jobs, store.folders("runs/")) == ([run, run], [run])
    record = store.get_json(layout.run_key(run, layout.SPEC))
    expected = load_spec("B1", profile="smoke", overrides=[*tiny[3::2], "backend=peft"])
    assert recorded_spec(record["spec"], "spec.json") == expected
    assert len(fetch_dataset(store, record["dataset"], tmp_path / "data").train) == 18


def test_settings_that_are_none_end_a_job_for_good(cefr_batch: Run, jobs: list[str]) -> None:
    for text, said in (("{", "this is not JSON"), ("{}", "--settings: level"), ("[]", "--settings: ")):
        result = cefr_batch("run-job", "tiny-b1-peft-v1", "--settings", text)
        assert (result.code, said in result.err) == (2, True), result.err
    result = cefr_batch("run-job", "tiny-b1-peft-v1", "--settings", "{}", "--settings", "{}")
    assert "--settings is given 2 times for 1 runs" in result.err
    assert jobs == []


class LaterSpec(RunSpec):
    """As a later version may have it: with one setting more."""

    added: int = 3


def test_a_setting_that_a_later_version_adds_keeps_the_names_that_render_gives() -> None:
    spec = load_spec("B1")
    settings = spec.with_backend("peft").model_dump(mode="json")
    name = unclaimed_name(RunSpec.model_validate(settings))
    assert unclaimed_name(LaterSpec.model_validate(settings)) == name
    assert unclaimed_name(LaterSpec.model_validate({**settings, "added": 4})) != name
