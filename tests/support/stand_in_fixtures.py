"""Fixtures around the stand-in job and the command line; tests/conftest.py loads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support import stand_in

from cefr_batch.cli import notice
from cefr_batch.cli.main import main
from cefr_batch.config.load import load_spec
from cefr_batch.runner.submission import claim
from cefr_batch.schedulers import SCHEDULERS
from cefr_batch.store.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where stand-in jobs take their orders. None of them outlives the test."""
    folder = tmp_path / "orders"
    folder.mkdir()
    monkeypatch.setenv(stand_in.FOLDER, str(folder))
    yield folder
    for process in psutil.process_iter(["cmdline", "environ"]):
        theirs = (process.info["environ"] or {}).get(stand_in.FOLDER)  # gone, of one that ends just now
        if stand_in.__file__ in (process.info["cmdline"] or []) and theirs == str(folder):
            process.kill()


@pytest.fixture(autouse=True)
def busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine everything is slow; that alone must not add a line to what tests compare."""
    monkeypatch.setattr(notice, "SLOW_SECONDS", 600.0)


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def cefr_batch(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """The command line in this process, with this test's store."""
    monkeypatch.setenv("CEFR_BATCH_STORE", store.url)

    def run(*arguments: str) -> Result:
        capfd.readouterr()
        code = main(arguments)
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture
def stand_in_jobs(folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--cluster local` starts stand-in jobs."""
    monkeypatch.setitem(SCHEDULERS, "local", "support.stand_in:StandInLauncher")


@pytest.fixture
def claimed(store: LocalStore) -> Callable[[str], str]:
    """Makes a run of a level that has a name and no job."""

    def make(level: str) -> str:
        (run,) = claim(store, [(load_spec(level, profile="smoke").with_backend("peft"), "0" * 64)])
        return run

    return make
