"""report_to: the trainer's own integrations log each step; one that fails costs a warning; no credential is stored."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.job_runs import claimed_run, stored

from cefr_batch.config.load import load_spec
from cefr_batch.errors import NotReady, Problem
from cefr_batch.job.machine import check_machine
from cefr_batch.records import layout
from cefr_batch.records.layout import WorkDir
from cefr_batch.runner import Session
from cefr_batch.schedulers import base
from cefr_batch.schedulers.secrets import TRACKER_SECRETS
from cefr_batch.store.local import LocalStore
from cefr_batch.training.redaction import without_secrets

KEY = "0123456789abcdef0123456789abcdef01234567"  # what a W&B key looks like


# What each writes where it has no address: a file, and a text in it.
OFFLINE = {
    "wandb": ("wandb/offline-run-*/*.wandb", b"train/loss"),
    "mlflow": ("mlruns/*/*/metrics/loss", b" 8"),
    "trackio": ("trackio/start/cefr-batch.db", b"train/loss"),
}


@pytest.mark.slow
@pytest.mark.parametrize("tracker", OFFLINE)
def test_a_run_reports_to_files_and_stores_no_key(tiny_model: Path, tmp_path: Path, tracker: str) -> None:
    """W&B has a key, but a server that refuses connections. The weights are those of a run that reports to nobody."""
    if not find_spec(tracker):
        pytest.skip(f"needs {tracker}, which is optional")
    store = LocalStore(tmp_path / "store")
    planted = dict.fromkeys((*TRACKER_SECRETS, "HF_TOKEN"), KEY)
    planted |= {"WANDB_BASE_URL": f"http://user:{KEY}@127.0.0.1:9", "WANDB_INIT_TIMEOUT": "5"}
    runs = [claimed_run(store, tiny_model, f"training.report_to=[{one}]") for one in (tracker, "")]
    output = ""
    for run in runs:
        command = [sys.executable, "-m", "cefr_batch", "run-job", run, "--store", store.url]
        done = subprocess.run(command, env={**os.environ, **planted}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        output += done.stdout + done.stderr
    folder = tmp_path / "store" / "runs"
    pattern, text = OFFLINE[tracker]
    (record,) = (folder / runs[0] / layout.TRACKING).glob(pattern)
    assert text in record.read_bytes()
    assert not (folder / runs[1] / layout.TRACKING).exists()
    assert ("wandb cannot be used online" in output) == (tracker == "wandb")
    assert "training continues without it" not in output
    assert KEY not in output
    files = [file for file in (tmp_path / "store").rglob("*") if file.is_file()]
    assert len(files) > 40
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []
    weights = [(folder / run / layout.ADAPTER_WEIGHTS).read_bytes() for run in runs]
    assert weights[0] == weights[1]
    listed = {one["key"] for one in stored(store, runs[0], layout.MANIFEST)["objects"]}
    assert record.relative_to(folder / runs[0]).as_posix() in listed


class Broken:
    """Stands in for an integration whose server goes away in the middle of a run."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.told.append("begin")

    def on_log(self, *_: Any, **__: Any) -> None:
        self.told.append("log")
        raise ConnectionError(f"503 from https://me:{KEY}@tracker.example/api with {KEY}")


def test_a_tracker_that_fails_is_left_out_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from cefr_batch.training import trackers

    broken = Broken()
    kind: Callable[[], Broken] = lambda: broken  # noqa: E731
    monkeypatch.setattr(trackers, "get_reporting_integration_callbacks", lambda _: [kind])
    monkeypatch.setattr(os, "environ", os.environ.copy())  # its defaults are not for other tests
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", KEY)
    found = trackers.Trackers(["mlflow"], WorkDir(tmp_path), None)
    state = SimpleNamespace(is_world_process_zero=True)
    found.on_train_begin(None, state, None)
    for _ in range(3):
        found.on_log(None, state, None, logs={})
    found.on_train_end(None, state, None)
    assert broken.told == ["begin", "log"]
    assert caplog.messages == [
        "mlflow failed (503 from https://tracker.example/api with <MLFLOW_TRACKING_TOKEN>); training continues without it"
    ]


def test_other_processes_of_a_group_report_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cefr_batch.training import trackers

    monkeypatch.setattr(trackers, "get_reporting_integration_callbacks", lambda _: pytest.fail("was asked for"))
    monkeypatch.setattr(os, "environ", os.environ.copy())
    found = trackers.Trackers(["mlflow"], WorkDir(tmp_path), None)
    found.on_train_begin(None, SimpleNamespace(is_world_process_zero=False), None)


def test_a_missing_library_is_told_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    monkeypatch.setattr(base, "find_spec", lambda name: None if name == "trackio" else name)
    overrides = [f"model.name={tiny_model}", "backend=peft", "training.report_to=[trackio]"]
    what = f"training.report_to: {sys.executable} has no trackio; install it there (pip install trackio)"
    with pytest.raises(NotReady) as caught:
        Session(LocalStore(tmp_path / "store")).prepare(["A1"], overrides=overrides)
    assert what in str(caught.value)
    with pytest.raises(Exception, match="has no trackio"):
        check_machine(load_spec("A1", overrides=overrides), None, tmp_path, 0)
    assert [str(one) for one in base.missing_trackers([])] == []
    assert all(isinstance(one, Problem) for one in base.missing_trackers(["wandb"]))


def test_credentials_in_other_libraries_words_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_PROJECT", "levels")
    text = without_secrets(f"key {KEY} refused for levels at https://u:p@host/x")
    assert text == "key <WANDB_API_KEY> refused for levels at https://host/x"
