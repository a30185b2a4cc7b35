"""Must show: the first report's arithmetic on real trainer runs; a log that does not depend on interruptions."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.job_runs import adapter, start_training, trained, wait_for_step, work_folder

from cefr_batch.config.load import load_spec
from cefr_batch.data import Example, TokenCounter
from cefr_batch.data.examples import list_format
from cefr_batch.job.context import StageContext
from cefr_batch.job.stages import run_stage
from cefr_batch.planning.plan import make_plan
from cefr_batch.records import layout
from cefr_batch.records.control import StageError
from cefr_batch.records.document import read_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.status import Progress
from cefr_batch.training import trainer as train
from cefr_batch.training.callbacks import fold_log, latest_loss


@pytest.mark.slow
def test_a_run_on_one_gpu_leaves_the_others_of_its_machine_alone(tmp_path: Path) -> None:
    """A fake: no GPU is here; torch says that there are four. In a process of its own, since accelerate remembers it."""
    code = """
import sys
from pathlib import Path
import torch
torch.cuda.is_available, torch.cuda.device_count, torch.cuda.set_device = lambda: True, lambda: 4, lambda _: None
from cefr_batch.config.load import load_spec
from cefr_batch.records.layout import WorkDir
from cefr_batch.training.trainer import _arguments
spec = load_spec("B1", overrides=["training.precision=fp32"])
found = _arguments(spec, WorkDir(Path(sys.argv[1])), 8, [])
print(found.device, found.optim.value, found.n_gpu, found.train_batch_size)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == ["cuda:0", "adamw_8bit", "1", "16"]


@pytest.mark.slow
def test_the_first_reports_settings_give_its_steps_and_evaluations(tiny_model: Path, tmp_path: Path) -> None:
    """1,800 examples at base.yaml's settings: 290 steps, evaluations at the epochs that the first report lists.

    The texts and the model are tiny, which changes no count.
    """
    for name, number in (("train", 1800), ("eval", 8)):
        examples = [Example(f"{name} {i}", "", f"{i}") for i in range(number)]
        (tmp_path / f"{name}.json").write_bytes(list_format(examples))
    files = [f"data.{name}={tmp_path}/{name}.json" for name in ("train", "eval")]
    spec = load_spec("B1", overrides=[f"model.name={tiny_model}", "backend=peft", "lora.rank=2", *files])
    assert (spec.training.epochs, spec.training.batch_size, spec.training.gradient_accumulation_steps) == (10, 16, 4)
    work = work_folder(tmp_path / "run", spec)
    job = StageContext(work)
    run_stage(job, "train")
    result = trained(work)

    evaluations = [(e.step, round(e.epoch, 2)) for e in result.log if e.eval_loss is not None]
    assert evaluations == [(50, 1.74), (100, 3.46), (150, 5.18), (200, 6.92), (250, 8.64)]
    assert result.train.examples == 1800
    assert result.train.steps == 290
    assert [e.step for e in result.log if e.loss is not None] == list(range(10, 291, 10))
    assert result.train.samples_per_second == pytest.approx(18000 / result.train.duration_seconds, rel=1e-3)

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
        run_stage(StageContext(work), "train")
        curves.append([entry.loss for entry in trained(work).log if entry.loss is not None])
    assert len(curves[0]) == 36
    assert curves[0] == pytest.approx(curves[1], abs=1e-2)
    assert curves[0] != curves[1]  # the counterpart is another computation


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
    assert read_file(StageError, work.error).kind == "Interrupted"
    stopped_at = work.checkpoints()[-1]
    assert 13 <= stopped_at < 36
    assert read_file(Progress, work.progress).step == stopped_at  # however soon after the last report

    moved = WorkDir(tmp_path / "elsewhere")
    work.root.rename(moved.root)
    (moved.path(layout.CHECKPOINTS) / "step-35").mkdir()  # half-written by a job that died: no manifest
    assert start_training(moved).wait() == 0
    results = [trained(w) for w in (whole, moved)]
    assert results[0].log == results[1].log
    assert results[0].best == results[1].best
    adapters = [adapter(w) for w in (whole, moved)]
    assert adapters[0] == adapters[1]
    config = json.loads((moved.path(layout.ADAPTER) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "local:tiny-llama", "no folder of this machine"


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
    logged = [(e.step, e.loss) for e in log if e.loss is not None]
    steps_logged = [step for step, _ in logged]
    assert steps_logged == sorted({*range(window, steps + 1, window), steps})
    widths = [b - a for a, b in zip([0, *steps_logged], steps_logged, strict=False)]
    total = sum(loss * width for (_, loss), width in zip(logged, widths, strict=True))
    assert total == pytest.approx(sum(r["loss"] for r in rows if "loss" in r))
    assert [e.eval_loss for e in log if e.eval_loss is not None] == [r["eval_loss"] for r in rows if "eval_loss" in r]
    for step, loss in logged:  # what `status` shows after a step of the log is what the log says
        until_then = [row for row in rows if row["step"] <= step]
        assert latest_loss(until_then, window) == pytest.approx(loss)
    assert latest_loss([], window) is None
