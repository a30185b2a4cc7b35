"""What submit says of runs of whose end nobody would be told, although somebody should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cefr_batch.runner import prepare

Run = Callable[..., Any]


@pytest.fixture
def submit(cefr_batch: Run, tiny_model: Path) -> Run:
    given = (f"model.name={tiny_model}", "training.max_length=2048", "backend=peft", "notify=CEFR_BATCH_NOTIFY")
    settings = [word for one in given for word in ("--set", one)]
    return lambda *more: cefr_batch("submit", "--level", "B1", "--dry-run", *settings, *more)


@pytest.mark.slow
def test_the_variable_must_be_there_and_the_library(submit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CEFR_BATCH_NOTIFY", raising=False)
    unset = submit()
    assert unset.code == 1
    assert (
        unset.err
        == "error: notify: the environment variable CEFR_BATCH_NOTIFY is not set; export it and submit again\n"
    )
    monkeypatch.setenv("CEFR_BATCH_NOTIFY", "json://user:hidden@127.0.0.1/")
    given = submit()
    assert (given.code, given.err) == (0, "")
    assert "hidden" not in given.out
    monkeypatch.setattr(prepare, "find_spec", lambda _: None)
    assert "has no apprise; pip install 'cefr-batch[notify]', or leave notify out" in submit().err


@pytest.mark.slow
def test_pods_get_it_from_a_secret(submit: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CEFR_BATCH_NOTIFY", "json://127.0.0.1/")  # of this shell, which a pod does not inherit
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "k8s").mkdir()
    site = tmp_path / "k8s" / "here.yaml"
    site.write_text("extends: default\n")
    where = ("--cluster", "k8s/here")
    lacks = "notify: pods get no CEFR_BATCH_NOTIFY; set notify_secret in k8s/here.yaml to a Secret that has it as a key"
    assert lacks in submit(*where).err
    site.write_text("extends: default\nnotify_secret: people\n")
    assert "notify:" not in submit(*where).err
