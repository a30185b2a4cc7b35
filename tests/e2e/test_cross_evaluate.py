"""Must show: levels cross-evaluated on this machine, a file of one's own after them, and the report that compares them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cluster_jobs import SHORT
from support.runs import cefr_batch, read, runs, settings

from cefr_batch.records import layout

pytestmark = pytest.mark.e2e


def evaluations(folder: Path) -> dict[tuple[str, str], Any]:
    """What is stored beside a run, by model and set."""
    found = [json.loads(file.read_text()) for file in (folder / layout.EVALUATIONS).glob("*.json")]
    return {(one["task"]["model"], one["task"]["label"]): one for one in found}


def loss(scores: list[Any], part: str) -> float:
    return float(np.sum([s["nll"][part] for s in scores]) / np.sum([s["tokens"][part] for s in scores]))


def test_two_levels_and_a_file(tiny_model: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    words = ["submit", "--level", "A1", "--level", "B1", "--cross-evaluate", "--wait"]
    cefr_batch(*words, *settings(f"model.name={tiny_model}", "backend=peft", *SHORT), store=store)
    a1, b1 = (folder for folder in runs(store).values())
    assert set(evaluations(a1)) == {("tuned", "B1")}
    assert set(evaluations(b1)) == {("tuned", "A1")}

    sha256 = read(a1, "spec.json")["dataset"]
    mine = tmp_path / "mine.json"
    mine.write_bytes((store / "datasets" / sha256 / "eval.json").read_bytes())
    cefr_batch("evaluate", a1.name, "--on", str(mine), "--base", "--examples", "4", "--wait", store=store)
    own, again = read(a1, "evaluation.json")["examples"], evaluations(a1)
    for model, when in (("tuned", "tuned"), ("base", "baseline")):  # the job's own figures, to the bit
        scores = again[model, "mine.json"]["scores"]
        assert [one["nll"] for one in scores] == [one[when] for one in own]

    manifest = read(a1, "manifest.json")["objects"]
    assert not [one for one in manifest if one["key"].startswith(layout.EVALUATIONS)]
    assert "match its manifest" in cefr_batch("verify", a1.name, store=store)
    cefr_batch("report", "--out", str(tmp_path / "report"), store=store)
    found = json.loads((tmp_path / "report" / "report.json").read_text())["matrix"]
    assert found["columns"] == ["A1", "B1"]
    cell = found["rows"][0]["cells"][1]
    for part in ("response", "full"):
        theirs = [{"nll": one["tuned"], "tokens": one["tokens"]} for one in read(b1, "evaluation.json")["examples"]]
        ours = evaluations(a1)["tuned", "B1"]["scores"]
        assert cell[part]["loss"] == pytest.approx(loss(ours, part), abs=1e-9)
        assert cell[part]["to_own"]["nats"] == pytest.approx(loss(ours, part) - loss(theirs, part), abs=1e-9)
    assert (tmp_path / "report" / "cross_evaluation.png").is_file()
    cefr_batch("report", "--check", str(tmp_path / "report" / "report.json"), store=store)
