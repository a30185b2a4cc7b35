"""Must show: what `make demo` runs — three levels on the starter corpus, each better than untrained on held-out examples;
and every figure of their report, computed again from what the runs left."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from report_checks import check_report
from runs import ROOT, read, runs

pytestmark = pytest.mark.e2e


def test_demo(tmp_path: Path) -> None:
    command = ["make", "--no-print-directory", "demo", f"DEMO_STORE={tmp_path}/store", f"DEMO_REPORT={tmp_path}/report"]
    shown = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    folders = runs(tmp_path / "store")
    assert list(folders) == [f"smollm2-{level}-peft-v1" for level in ("a1", "a2", "b1")]
    for folder in folders.values():
        metrics = read(folder, "metrics.json")
        assert metrics["leakage"]["sentences_percent"] == 0
        for kind in ("full", "response"):
            assert metrics["tuned"][kind]["loss"] < metrics["baseline"][kind]["loss"]
    assert (tmp_path / "report" / "report.md").read_text() in shown
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert "A1 vs A2 vs B1" in shown
    assert report
    assert check_report(tmp_path / "store", ("A1", "A2", "B1"), tmp_path / "again") > 300
