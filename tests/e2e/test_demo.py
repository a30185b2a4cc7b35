"""Must show: what `make demo` runs — three levels on the starter corpus, each better than untrained on held-out examples;
and every figure of their report, computed again from what the runs left."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from support.report_checks import check_report
from support.runs import ROOT, read, runs

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
    assert re.findall("^(A1|A2|B1): .*Loss over the response: .* lower", shown, re.MULTILINE) == ["A1", "A2", "B1"]
    assert f"Read {tmp_path}/report/report.html." in shown.splitlines()[-1]
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [one["label"] for one in report["levels"]] == ["A1", "A2", "B1"]
    assert check_report(tmp_path / "store", ("A1", "A2", "B1"), tmp_path / "again") > 300
