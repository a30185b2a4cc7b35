"""Must show: the seed's arithmetic on real trainer runs; a log that does not depend on interruptions."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cefr_batch import layout
from cefr_batch.data import Example, TokenCounter, load_dataset
from cefr_batch.data.examples import list_format
from cefr_batch.files import read_json, write_json
from cefr_batch.layout import WorkDir
from cefr_batch.levels import RunSpec
from cefr_batch.plan import make_plan
from cefr_batch.run import train
from cefr_batch.run.stages import Context, run_stage
from cefr_batch.run.steps import fold_log
from cefr_batch.spec import load_spec


def work_folder(root: Path, spec: RunSpec) -> WorkDir:
    """A job's folder as the job finds it after fetching its data."""
    work = WorkDir(root)
    data = load_dataset(spec.data, spec.level)
    for folder in (work.tmp, work.dataset):
        folder.mkdir(parents=True)
    (work.dataset / layout.TRAIN_FILE).write_bytes(data.train_bytes)
    (work.dataset / layout.EVAL_FILE).write_bytes(data.eval_bytes)
    write_json(work.path(layout.SPEC), {"spec": spec.model_dump(mode="json")})
    return work


@pytest.mark.slow
def test_the_seeds_settings_give_the_seeds_steps_and_evaluations(tiny_model: Path, tmp_path: Path) -> None:
    """1,800 examples at base.yaml's settings: 290 steps, evaluations at the epochs that the seed's report lists.

    The texts and the model are tiny, which changes no count.
    """
    for name, number in (("train", 1800), ("eval", 8)):
        examples = [Example(f"{name} {i}", "", f"{i}") for i in range(number)]
        (tmp_path / f"{name}.json").write_bytes(list_format(examples))
    files = [f"data.{name}={tmp_path}/{name}.json" for name in ("train", "eval")]
    spec = load_spec("B1", overrides=[f"model.name={tiny_model}", "backend=peft", "lora.rank=2", *files])
    assert (spec.training.epochs, spec.training.batch_size, spec.training.gradient_accumulation_steps) == (10, 16, 4)
    work = work_folder(tmp_path / "run", spec)
    job = Context(work)
    run_stage(job, "train")
    result = read_json(work.path(layout.stage_name("train")))["result"]

    evaluations = [(e["step"], round(e["epoch"], 2)) for e in result["log"] if "eval_loss" in e]
    assert evaluations == [(50, 1.74), (100, 3.46), (150, 5.18), (200, 6.92), (250, 8.64)]
    assert result["train"]["examples"] == 1800
    assert result["train"]["steps"] == 290
    assert [e["step"] for e in result["log"] if "loss" in e] == list(range(10, 291, 10))
    assert result["train"]["samples_per_second"] == pytest.approx(18000 / result["train"]["duration_seconds"], rel=1e-3)

    plan = make_plan(spec, job.dataset, TokenCounter(tiny_model / "tokenizer.json"))
    assert plan.steps == 290
    assert [(e.step, round(e.epoch, 2)) for e in plan.evaluations] == evaluations


SHORT = ["backend=peft", "data.examples=40", "data.words_per_example=3", "lora.rank=4", "evaluation.max_examples=4"]
SHORT += ["training.batch_size=2", "training.gradient_accumulation_steps=2", "training.epochs=4"]
SHORT += ["training.eval_steps=5", "training.logging_steps=4"]


@pytest.mark.slow
def test_without_casts_to_fp32_every_steps_loss_is_the_same(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain counterpart is PEFT as it comes; both under bf16 autocast, with dropout."""
    short = [*SHORT, "training.precision=bf16", "training.logging_steps=1", "lora.dropout=0.3"]
    spec = load_spec("A1", overrides=[f"model.name={tiny_model}", *short])
    curves = []
    for name in ("direct", "plain"):
        work = work_folder(tmp_path / name, spec)
        if name == "plain":
            monkeypatch.setattr(train, "_inputs_as_autocast_has_them", lambda model, spec: nullcontext())
        run_stage(Context(work), "train")
        log = read_json(work.path(layout.stage_name("train")))["result"]["log"]
        curves.append([entry["loss"] for entry in log if "loss" in entry])
    assert len(curves[0]) == 36
    assert curves[0] == pytest.approx(curves[1], abs=1e-2)
    assert curves[0] != curves[1]  # the counterpart is another computation


def start_training(work: WorkDir) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(work.root)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


# The stage process as the job starts it, with this process as its parent.
_CHILD = (
    "import os, sys; from cefr_batch.run.stages import main; sys.exit(main([sys.argv[1], str(os.getppid()), 'train']))"
)


@pytest.mark.slow
def test_sigterm_stops_at_a_step_and_what_follows_is_exactly_the_same(tiny_model: Path, tmp_path: Path) -> None:
    """A checkpoint at a step that is neither a logging, nor an evaluation, nor a save step; resumed in another folder."""
    spec = load_spec("A1", overrides=[f"model.name={tiny_model}", *SHORT])
    whole = work_folder(tmp_path / "whole", spec)
    assert start_training(whole).wait() == 0

    work = work_folder(tmp_path / "stopped", spec)
    process = start_training(work)
    wait_for_step(work, process, 13)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 75, output
    assert read_json(work.error)["kind"] == "Interrupted"
    stopped_at = work.checkpoints()[-1]
    assert 13 <= stopped_at < 36
    assert read_json(work.progress)["step"] == stopped_at  # however soon after the last report

    moved = WorkDir(tmp_path / "elsewhere")
    work.root.rename(moved.root)
    (moved.path(layout.CHECKPOINTS) / "step-35").mkdir()  # half-written by a job that died: no manifest
    assert start_training(moved).wait() == 0
    results = [read_json(w.path(layout.stage_name("train")))["result"] for w in (whole, moved)]
    assert results[0]["log"] == results[1]["log"]
    assert results[0]["best"] == results[1]["best"]
    adapters = [(w.path(layout.ADAPTER) / "adapter_model.safetensors").read_bytes() for w in (whole, moved)]
    assert adapters[0] == adapters[1]
    config = json.loads((moved.path(layout.ADAPTER) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model)


def wait_for_step(work: WorkDir, process: subprocess.Popen[str], step: int) -> None:
    while process.poll() is None:
        try:
            if (read_json(work.progress).get("step") or 0) >= step:
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.01)
    raise AssertionError(f"training ended early: {process.communicate()[0]}")


def history(steps: int, every: int) -> list[dict[str, Any]]:
    random.seed(steps)
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        at = {"step": step, "epoch": step / 10}
        rows.append({**at, "loss": random.random(), "learning_rate": 1e-4, "grad_norm": 1.0})
        if step % every == 0:
            rows.append({**at, "eval_loss": random.random()})
    return rows


@given(steps=st.integers(1, 60), every=st.integers(1, 20), window=st.integers(1, 20))
def test_each_step_counts_once_in_the_folded_log(steps: int, every: int, window: int) -> None:
    rows = history(steps, every)
    log = fold_log(rows, window, last_step=steps)
    logged = [e for e in log if "loss" in e]
    assert [e["step"] for e in logged] == sorted({*range(window, steps + 1, window), steps})
    widths = [b - a for a, b in zip([0, *(e["step"] for e in logged)], [e["step"] for e in logged], strict=False)]
    total = sum(e["loss"] * width for e, width in zip(logged, widths, strict=True))
    assert total == pytest.approx(sum(r["loss"] for r in rows if "loss" in r))
    assert [e["eval_loss"] for e in log if "eval_loss" in e] == [r["eval_loss"] for r in rows if "eval_loss" in r]
