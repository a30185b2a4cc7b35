"""Must show: each benchmark runs, at a size that says nothing of speed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import ROWS
from benchmarks.table import show

# A SeaweedFS and the other tools are there where `make e2e` installed them.
_PARAMETERS = [pytest.param(row, marks=pytest.mark.e2e) if row == "transfers" else row for row in ROWS]


@pytest.mark.slow
@pytest.mark.parametrize("row", _PARAMETERS)
def test_the_benchmark_runs(row: str, tiny_model: Path, tmp_path: Path) -> None:
    comparisons = import_module(ROWS[row]).compare(tiny_model, tmp_path)
    assert comparisons
    for one in comparisons:
        assert one.row == row
        assert one.reach in show(one)
        assert all(seconds > 0 for several in one.seconds.values() for seconds in several)
