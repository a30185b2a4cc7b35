"""What only a folder can do wrong: rights."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cefr_batch.store.local import LocalStore


def test_many_writers_at_once_keep_to_the_umask_and_never_set_it(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to the whole process: of two threads that set and restore it, one may restore what the other set."""

    def change(mask: int) -> int:
        raise AssertionError(f"umask({mask:#o})")

    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch, ThreadPoolExecutor(16) as pool:
            patch.setattr(os, "umask", change)
            list(pool.map(lambda number: store.put(f"runs/{number}", b"1"), range(100)))
    finally:
        left = os.umask(before)
    assert left == 0o027
    assert {path.stat().st_mode & 0o777 for path in Path(store.root, "runs").iterdir()} == {0o640}
