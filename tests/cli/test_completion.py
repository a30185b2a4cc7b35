"""Shell completion, asked as bash asks: levels, profiles, sites, runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cefr_batch.cli import completion
from cefr_batch.cli.main import cli
from cefr_batch.store.local import LocalStore


def completed(folder: Path, line: str) -> list[str]:
    """What bash offers for the last word of a line, with the completion that docs/shell-completion.md sets up."""
    program = folder / "bin"
    program.mkdir(exist_ok=True)
    (program / "cefr-batch").write_text(f'#!/bin/sh\nexec {sys.executable} -m cefr_batch "$@"\n')
    (program / "cefr-batch").chmod(0o755)
    words = line.split(" ")
    script = (
        'eval "$(_CEFR_BATCH_COMPLETE=bash_source cefr-batch)"\n'
        f"COMP_WORDS=({' '.join(word or repr('') for word in words)}) COMP_CWORD={len(words) - 1}\n"
        "_cefr_batch_completion cefr-batch\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    environment = {**os.environ, "PATH": f"{program}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_levels_sites_and_runs(tmp_path: Path, store: LocalStore, claimed: Callable[[str], str]) -> None:
    run = claimed("B1")
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "my-uni.yaml").write_text("extends: default\n")
    assert completed(tmp_path, "cefr-batch submit --level B1,a") == ["B1,A1", "B1,A2", "B1,all"]
    assert completed(tmp_path, "cefr-batch submit --cluster slurm/my") == ["slurm/my-uni"]
    assert completed(tmp_path, f"cefr-batch status --store {store.url} {run[:4]}") == [run]


def asked(command: str, parameter: str, incomplete: str, **params: object) -> list[str]:
    """What the command line itself offers for a parameter."""
    import click

    context = click.Context(cli, info_name="cefr-batch")
    found = cli.get_command(context, command)
    assert found is not None
    inner = click.Context(found, parent=context)
    inner.params = params
    (one,) = (one for one in found.params if one.name == parameter)
    return [item.value for item in one.shell_complete(inner, incomplete)]


def test_every_command_that_takes_them_completes_them(
    store: LocalStore, claimed: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CEFR_BATCH_STORE", store.url)
    run = claimed("A1")
    for command in ("status", "cancel", "resume", "pull", "verify", "prune", "tensorboard", "evaluate"):
        assert asked(command, "runs", "") == [run], command
    for command in ("submit", "plan", "render", "status", "doctor", "init"):
        assert asked(command, "levels", "c") == ["C1"], command
    assert asked("plan", "profile", "s") == ["smoke"]
    assert asked("doctor", "scheduler", "k8s/gke") == ["k8s/gke-l4"]
    assert asked("doctor", "scheduler", "l") == ["local"]


def test_a_store_that_does_not_answer_offers_nothing_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    from threading import Event

    from cefr_batch.runner import Session

    monkeypatch.setattr(completion, "_SECONDS", 0.2)
    monkeypatch.setattr(Session, "runs", lambda _self: Event().wait(600))
    assert asked("status", "runs", "") == []
    monkeypatch.setenv("CEFR_BATCH_STORE", "ftp://nowhere")
    assert asked("status", "runs", "") == []
