"""Which runs `--level` means."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.report_stores import A2, B1, add_complete, add_spec

from cefr_batch.errors import NotFound
from cefr_batch.runner.selection import find_runs
from cefr_batch.store.local import LocalStore


def test_all_is_each_level_that_has_a_run_and_each_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with pytest.raises(NotFound, match="There are no runs in"):
        find_runs(store, levels=["all"])
    add_spec(store, "llama1b-c1-unsloth-v1", "C1", "2026-01-01T00:00:00+00:00")
    with pytest.raises(NotFound, match="is complete"):
        find_runs(store, levels=["all"], complete=True)
    add_complete(store, "llama1b-a2-unsloth-v1", "A2", A2)
    add_complete(store, "llama1b-b1-unsloth-v1", "B1", B1)
    complete = ["llama1b-a2-unsloth-v1", "llama1b-b1-unsloth-v1"]
    assert find_runs(store, levels=["all"], complete=True) == complete
    assert find_runs(store, levels=["b1,All"]) == [complete[1], complete[0], "llama1b-c1-unsloth-v1"]
    with pytest.raises(NotFound, match="no run of level A1"):
        find_runs(store, levels=["A1"])
