"""doctor: what submit would check, as a list. The cluster's own checks are in tests/launch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cefr_batch.store.local import LocalStore

Run = Callable[..., Any]


def test_a_machine_that_is_well(cefr_batch: Run, store: LocalStore) -> None:
    result = cefr_batch("doctor", "--backend", "peft")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert any("packages for peft" in line for line in lines)
    assert any(f"store {store.url}" in line for line in lines)
    assert not store.root.exists()


def test_everything_that_is_wrong_is_listed_and_the_exit_code_says_so(
    cefr_batch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CEFR_BATCH_WORK", str(tmp_path / "file" / "work"))
    result = cefr_batch("doctor", "--backend", "nonsense", "--store", str(tmp_path / "file" / "store"), "--json")
    assert result.code == 1
    assert "3 of 4 checks failed" in result.err
    problems = [check["problem"] for check in json.loads(result.out)["checks"] if check["problem"]]
    for expected in ("has no nonsense", "work folder", "cannot be written; give another with --store"):
        assert any(expected in problem for problem in problems)


def test_a_cluster_without_its_commands(cefr_batch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = cefr_batch("doctor", "--cluster", "slurm/cpu")
    assert result.code == 1
    assert "WRONG    Slurm's commands: there is no sbatch" in result.out


def test_a_site_that_is_not_there(cefr_batch: Run) -> None:
    result = cefr_batch("doctor", "--cluster", "slurm/nowhere")
    assert result.code == 2
    assert "sites known: cpu, default" in result.err
