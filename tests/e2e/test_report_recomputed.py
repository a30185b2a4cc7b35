"""Every figure of a report on any runs, computed again from what they left. The demo's runs always are: test_demo.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.report_checks import check_report

pytestmark = pytest.mark.e2e

STORE = "CEFR_BATCH_REPORT_STORE"


def test_every_figure_comes_out_again(tmp_path: Path) -> None:
    """Of the newest complete runs of A1, A2 and B1 in the folder that this variable names."""
    if not os.environ.get(STORE):
        pytest.skip(f"{STORE} names no folder with runs of A1, A2 and B1")
    assert check_report(Path(os.environ[STORE]), ("A1", "A2", "B1"), tmp_path) > 300
