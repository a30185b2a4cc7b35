from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import stand_in

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
        if stand_in.__file__ in (process.info["cmdline"] or []) and process.info["environ"][stand_in.FOLDER] == str(
            folder
        ):
            process.kill()
