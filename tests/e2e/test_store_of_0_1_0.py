"""Must show: what version 0.1.0 stored is listed, reported, pulled, rated and resumed by this version.

``tests/fixtures/store-0.1.0.tar.xz`` was made by the code of 0.1.0 on a CPU: a tiny random model (``tiny-llama``) and a
store with two complete runs, one that was stopped at step 17 of 24, and a rating form that two made-up raters filled.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.released import COMPLETE, released_store
from support.runs import cefr_batch, read

pytestmark = pytest.mark.e2e

STOPPED = "tiny-b1-peft-v2"
STOPPED_AT = 17


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of 0.1.0, its stopped run pointed at the model's folder here."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as when it was made
    released_store(tmp_path)
    path = tmp_path / "store" / "runs" / STOPPED / "spec.json"
    record = json.loads(path.read_text())
    record["spec"]["model"]["name"] = str(tmp_path / "tiny-llama")
    path.write_text(json.dumps(record))
    return tmp_path / "store"


def test_its_runs_are_listed_verified_and_pulled(store: Path, tmp_path: Path) -> None:
    listed = json.loads(cefr_batch("list", "--json", store=store))["runs"]
    assert {run["run"]: run["state"] for run in listed} == {
        **dict.fromkeys(COMPLETE, "SUCCEEDED"),
        STOPPED: "CANCELLED",
    }
    for run in COMPLETE:
        cefr_batch("verify", run, store=store)
    cefr_batch("pull", COMPLETE[1], "--to", str(tmp_path / "pulled"), store=store)
    pulled = tmp_path / "pulled" / COMPLETE[1]
    for name in ("adapter/adapter_model.safetensors", "merged/model.safetensors", "metrics.json"):
        assert (pulled / name).read_bytes() == (store / "runs" / COMPLETE[1] / name).read_bytes()


def test_its_figures_are_those_of_the_report(store: Path, tmp_path: Path) -> None:
    cefr_batch("report", *COMPLETE, "--out", str(tmp_path / "report"), store=store)
    text = (tmp_path / "report" / "report.json").read_text()
    for run in COMPLETE:
        stored = read(store / "runs" / run, "metrics.json")
        for side in ("baseline", "tuned"):
            assert f": {stored[side]['full']['loss']!r}" in text, (run, side)
    assert "2 raters" in cefr_batch("rate", "show", store=store)


def test_its_stopped_run_is_resumed_exactly(store: Path) -> None:
    """It ends as the same run trained in one go by this version: the same adapter to the bit, the same log; on a CPU that
    rounds otherwise than the one on which it began, as close as that lets it: a lost state of the optimizer, or other
    examples, would change the adapter ten thousand times as much."""
    straight = "tiny-b1-peft-v3"
    record = read(store / "runs" / STOPPED, "spec.json")
    (store / "runs" / straight).mkdir()
    (store / "runs" / straight / "spec.json").write_text(json.dumps({**record, "run": straight}))
    cefr_batch("run-job", straight, store=store)
    cefr_batch("resume", STOPPED, "--wait", store=store)
    ended = [store / "runs" / run for run in (STOPPED, straight)]
    resumed, whole = (read(folder, "evaluation.json")["examples"] for folder in ended)
    assert all(one.pop("sentences") for one in whole)
    assert not any(one.pop("sentences") for one in resumed), "0.1.0 stored no losses by sentence before training"
    logs = [read(folder, "metrics.json")["log"] for folder in ended]
    adapters = [folder / "adapter" / "adapter_model.safetensors" for folder in ended]
    by_0_1_0, by_this = ([row for row in log if row["step"] <= STOPPED_AT] for log in logs)
    if by_0_1_0 == by_this:
        assert adapters[0].read_bytes() == adapters[1].read_bytes()
        assert (resumed, logs[0]) == (whole, logs[1])
    else:
        tensors = [load_file(path) for path in adapters]
        assert all(np.abs(tensors[0][name] - tensors[1][name]).max() < 1e-6 for name in tensors[0].keys() | tensors[1])
        assert losses(resumed) == pytest.approx(losses(whole), rel=1e-6)
        assert losses(logs[0]) == pytest.approx(losses(logs[1]), rel=1e-6)
    assert read(ended[0], "generation.json") == read(ended[1], "generation.json")
    assert [read(folder, "metrics.json")["attempts"] for folder in ended] == [2, 1]
    shutil.rmtree(store)


def losses(found: Any) -> list[float]:
    """Every loss in what was read from JSON, in its order. (Norms of gradients are no losses: they are much larger.)"""
    if isinstance(found, list):
        return [loss for one in found for loss in losses(one)]
    if isinstance(found, dict):
        return [loss for key, one in found.items() if key != "gradient_norm" for loss in losses(one)]
    return [found] if isinstance(found, float) else []
