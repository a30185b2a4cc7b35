"""Must show: `cefr-batch bench`. What a CPU can show runs here, on a tiny model; the rest on a GPU, by `make e2e-gpu`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.runs import ROOT

from cefr_batch.bench.cases import CASES, REFERENCE

pytestmark = pytest.mark.e2e

# All that a CPU can show, by make e2e-long; else a whole job, and training by itself, which must have the same weights.
ON_CPU = [case.name for case in CASES if not case.needs] if os.environ.get("CEFR_BATCH_TEST_LONG") else []
ON_CPU = ON_CPU or [REFERENCE, "small-again"]


def bench(*options: str, out: Path) -> tuple[dict[str, Any], str]:
    """The command's document, and its table."""
    command = [sys.executable, "-m", "cefr_batch", "bench", *options, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    assert done.returncode == 0, f"the logs are in {out}"
    table = (out / "bench.md").read_text("utf-8")
    assert table in done.stdout
    assert sorted(file.name for file in out.iterdir()) == ["bench.json", "bench.md", "logs"], "all else is removed"
    found: dict[str, Any] = json.loads((out / "bench.json").read_text("utf-8"))
    return found, table


def test_what_a_cpu_can_show(tmp_path: Path) -> None:
    found, table = bench("--cpu", *(word for name in ON_CPU for word in ("--case", name)), out=tmp_path / "out")
    assert found["machine"]["gpus"] == 0
    assert found["machine"]["flops"] > 1e8
    cases = {case["name"]: case["figures"] for case in found["cases"]}
    assert list(cases) == ON_CPU
    for name, figures in cases.items():
        assert 0 < figures["step_seconds"] < figures["training_seconds"]
        assert 0 < figures["share"] < 1
        assert (figures["batch"], figures["out_of_memory"], figures["peak_memory_gb"]) == ("2 x 1", [], None)
        assert (tmp_path / "out" / "logs" / f"{name}.log").read_text("utf-8")
        if figures["comparison"]:
            assert figures["comparison"] == {"other": REFERENCE, "same_adapter": True, "difference": 0.0}
    assert {"baseline", "train", "tuned", "generate", "merge"} <= set(cases[REFERENCE]["stage_seconds"])
    profile = cases["small-again"]["profile"]
    assert {"products of matrices", "attention"} <= set(profile["kinds"])
    assert sum(profile["kinds"].values()) == pytest.approx(1, abs=0.01)
    assert 0 < profile["busy"] <= 1
    assert f"the same weights, to the bit, as {REFERENCE}" in table


@pytest.mark.gpu
def test_what_only_a_gpu_can_show() -> None:
    """Whatever can be expected of any GPU. Its figures are in build/bench-gpu."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip(f"needs a GPU: torch {torch.__version__} finds none here; make e2e-gpu on a machine that has one")
    found, _ = bench("--gpu", out=ROOT / "build" / "bench-gpu")
    assert found["seconds"] < 600
    cases = {case["name"]: case["figures"] for case in found["cases"] if case["ran"]}
    assert {REFERENCE, "large-peft", "large-peft-4bit"} <= set(cases)
    # a machine whose Python starts slowly has no time for the last cases
    late = {case["name"] for case in found["cases"] if not case["ran"] and case["problem"].endswith("were over")}
    assert {"small-again", "small-killed-and-resumed", "large-out-of-memory"} <= set(cases) | late
    for name, figures in cases.items():
        assert 0.02 < figures["share"] < 1, f"{name}: plan counts operations that were not made, or time is lost"
        assert figures["peak_memory_gb"] == pytest.approx(figures["planned_memory_gb"], rel=0.25), name
    # plain PEFT computes in fp32 between 4-bit weights, which takes more memory than they save
    if "large-unsloth-4bit" in cases:
        assert cases["large-unsloth-4bit"]["peak_memory_gb"] < cases["large-unsloth"]["peak_memory_gb"]
    if "small-killed-and-resumed" in cases:
        killed, again = (cases[name]["comparison"] for name in ("small-killed-and-resumed", "small-again"))
        assert killed["difference"] <= max(10 * again["difference"], 1e-3), (
            "a resumed run is no farther off than another one"
        )
