"""The command line as such: help, errors, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

from cefr_batch import __version__
from cefr_batch.cli.main import COMMANDS, LazyGroup, cli
from cefr_batch.errors import CefrBatchError, Interrupted, NotFound, UsageError
from cefr_batch.runner import Session

Run = Callable[..., Any]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_its_short_help_is_the_table_s(name: str, cefr_batch: Run) -> None:
    result = cefr_batch(name, "--help")
    assert result.code == 0
    assert f"Usage: cefr-batch {name}" in result.out
    command = import_module(COMMANDS[name][0]).command
    assert isinstance(command, click.Command)
    assert COMMANDS[name][1].endswith(".")
    assert command.help


def test_help_lists_every_command(cefr_batch: Run) -> None:
    result = cefr_batch("--help")
    assert result.code == 0
    assert [line.split()[0] for line in result.out.split("Commands:\n")[1].splitlines()] == list(COMMANDS)


def test_version(cefr_batch: Run) -> None:
    assert cefr_batch("--version").out == f"cefr-batch, version {__version__}\n"


def test_an_unknown_command_is_a_usage_error_that_names_close_ones(cefr_batch: Run) -> None:
    result = cefr_batch("statsu")
    assert result.code == 2
    assert "did you mean status?" in result.err
    result = cefr_batch("xyzzy")
    assert result.code == 2
    assert "valid: init, config, submit," in result.err


def test_an_unknown_option_is_a_usage_error(cefr_batch: Run) -> None:
    result = cefr_batch("status", "--nope")
    assert (result.code, result.out) == (2, "")
    assert "--nope" in result.err


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (CefrBatchError("it failed"), 1, "error: it failed\n"),
        (NotFound("no such run"), 1, "error: no such run\n"),
        (UsageError("not like this"), 2, "error: not like this\n"),
        (Interrupted("stopped after a checkpoint"), 75, "error: stopped after a checkpoint\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
    ],
)
def test_an_expected_error_is_a_message_and_an_exit_code(
    error: BaseException, code: int, shown: str, cefr_batch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Session, "status", fail)
    result = cefr_batch("status")
    assert (result.code, result.out, result.err) == (code, "", shown)


@pytest.mark.parametrize("how", ["option", "environment"])
def test_debug_shows_the_traceback_of_an_expected_error(
    how: str, cefr_batch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "environment":
        monkeypatch.setenv("CEFR_BATCH_DEBUG", "1")
    result = cefr_batch(*(["--debug"] if how == "option" else []), "status", "no-such-run")
    assert result.code == 1
    assert "Traceback" in result.err
    assert "error: no run 'no-such-run'" in result.err


def test_a_bug_keeps_its_traceback_and_asks_for_a_report(cefr_batch: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a real bug")

    monkeypatch.setattr(Session, "status", fail)
    result = cefr_batch("status")
    assert result.code == 1
    assert "Traceback" in result.err
    assert "ZeroDivisionError: a real bug" in result.err
    assert result.err.rstrip().splitlines()[-1].startswith("error: this is a bug in cefr-batch; please report it")


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = f"{sys.executable} -m cefr_batch submit --help | true"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_ctrl_c_while_the_command_line_loads_shows_no_traceback(tmp_path: Path) -> None:
    """A library that stands in for click, and for the moment."""
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "cefr_batch", "--help"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_the_installed_command_and_the_module_are_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "cefr_batch", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"cefr-batch, version {__version__}\n"


def test_the_group_knows_its_commands_without_importing_them() -> None:
    assert isinstance(cli, LazyGroup)
    assert cli.list_commands(click.Context(cli)) == list(COMMANDS)
