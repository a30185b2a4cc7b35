"""serve: which runs it takes, and how it begins and ends; the pages are in tests/serve."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from support.report_stores import A2, B1, add_complete, add_spec
from support.serving import add_adapter_run

from cefr_batch.cli import cmd_serve
from cefr_batch.store.local import LocalStore

Command = Callable[..., Any]
A2_RUN, B1_RUN = "llama1b-a2-unsloth-v1", "llama1b-b1-unsloth-v1"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str, int]]:
    """The runs, host and port that a command would serve; it serves nothing."""
    found: list[tuple[list[str], str, int]] = []
    monkeypatch.setattr(
        cmd_serve, "_serve", lambda _session, runs, host, port, **_: found.append((list(runs), host, port))
    )
    return found


@pytest.fixture
def runs(store: LocalStore) -> LocalStore:
    """Two complete runs, a newer one of B1 that is not, and a level without a complete one."""
    add_complete(store, A2_RUN, "A2", A2)
    add_complete(store, B1_RUN, "B1", B1)
    add_spec(store, "llama1b-b1-unsloth-v2", "B1", "2026-01-01T00:00:00+00:00")
    add_spec(store, "llama1b-c1-unsloth-v1", "C1", "2026-01-01T00:00:00+00:00")
    return store


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ([], []),
        ([A2_RUN], [A2_RUN]),
        (["--level", "B1"], [B1_RUN]),
        (["--level", "b1,a2"], [B1_RUN, A2_RUN]),
        (["--level", "all"], [A2_RUN, B1_RUN]),
        ([B1_RUN, "--level", "All"], [B1_RUN, A2_RUN]),
    ],
)
def test_it_serves_the_runs_named_and_the_newest_complete_ones_of_levels(
    arguments: list[str],
    chosen: list[str],
    runs: LocalStore,
    cefr_batch: Command,
    asked: list[tuple[list[str], str, int]],
) -> None:
    assert cefr_batch("serve", *arguments).code == 0
    assert asked == [(chosen, "127.0.0.1", 8765)]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--level", "C1"], 1, "no complete run of level C1"),
        (["--level", "A9"], 2, "'A9' is not a level"),
        (["nothing"], 1, "no run 'nothing'"),
        (["--port", "70000"], 2, "70000"),
        (["--gguf"], 2, "--gguf needs runs or --level"),
    ],
)
def test_what_it_cannot_serve_it_says_before_anything_is_loaded(
    arguments: list[str], code: int, said: str, runs: LocalStore, cefr_batch: Command
) -> None:
    result = cefr_batch("serve", *arguments)
    assert result.code == code
    assert said in result.err


def test_gguf_without_an_export_names_the_command_that_makes_one(
    runs: LocalStore, cefr_batch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp is replaced by nothing: nothing is loaded."""
    monkeypatch.setattr("cefr_batch.serve.writers._llama_cpp", lambda: None)
    result = cefr_batch("serve", "--gguf", B1_RUN)
    assert result.code == 1
    assert f"no GGUF export of {B1_RUN}; make it: `cefr-batch export {B1_RUN} --to gguf`" in result.err


def test_all_levels_of_a_store_without_a_complete_run(store: LocalStore, cefr_batch: Command) -> None:
    assert "There are no runs in" in cefr_batch("serve", "--level", "all").err
    add_spec(store, B1_RUN, "B1")
    assert "is complete" in cefr_batch("serve", "--level", "all").err


def test_a_port_that_is_taken_and_a_missing_package_are_said(
    store: LocalStore, cefr_batch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = cefr_batch("serve", "--port", port)
    assert result.code == 1
    assert f"cannot listen at 127.0.0.1, port {port}: " in result.err
    assert "choose another --port" in result.err
    for module in ("cefr_batch.serve.server", "cefr_batch.serve.guard", "cefr_batch.serve.app"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "starlette.datastructures", None)
    assert "pip install 'cefr-batch[train,serve]'" in cefr_batch("serve").err


@contextmanager
def started(store: LocalStore, *arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, and its address once it serves."""
    command = [sys.executable, "-m", "cefr_batch", "serve", *arguments, "--port", "0", "--store", store.url]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    try:
        yield process, address(process.stderr)
    finally:
        process.kill()
        process.communicate()


def address(lines: IO[str] | None) -> str:
    assert lines
    said = []
    for line in lines:
        said.append(line)
        if found := re.search(r"serving (http://\S+)", line):
            return found[1]
    raise AssertionError("".join(said))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once_with_0(number: signal.Signals, store: LocalStore) -> None:
    with started(store) as (process, url):
        assert "There is no run yet" in urllib.request.urlopen(f"{url}runs", timeout=60).read().decode()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "stopped\n")


@pytest.mark.slow
def test_a_signal_ends_what_a_model_is_writing(store: LocalStore, tiny_model: Path, tmp_path: Path) -> None:
    run = add_adapter_run(store, tiny_model, "B1", tmp_path)
    with started(store, run) as (process, url):
        words = ",".join(f"w{n}" for n in range(15))  # up to 600 tokens
        body = f'{{"words": "{words}", "voices": [0]}}'.encode()
        request = urllib.request.Request(f"{url}write", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as stream:
            assert b"began" in stream.readline()
            process.send_signal(signal.SIGTERM)
            rest = stream.read()
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "stopped\n")
    assert b'"answer"' not in rest
