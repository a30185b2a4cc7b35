"""What training reports, and leaves for TensorBoard."""

from __future__ import annotations

import itertools
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cefr_batch.config.load import load_spec
from cefr_batch.errors import JobFailed
from cefr_batch.records import layout
from cefr_batch.records.checkpoint import Checkpoint
from cefr_batch.records.document import read_file, write_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.status import Progress
from cefr_batch.training.callbacks import Steps
from cefr_batch.training.progress import ProgressFile


def train(work: WorkDir, resume: Path | None, losses: dict[int, float]) -> None:
    """What the trainer calls, without one: these steps with these losses, then it is killed."""
    spec = load_spec("A2", overrides=["backend=peft", "training.logging_steps=1"])
    callback = Steps(spec, work, resume, ProgressFile(work.progress), ())
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, epoch=0.0, max_steps=9, log_history=[])
    callback.on_train_begin(None, state, None)
    for step, loss in losses.items():
        row = {"step": step, "epoch": 0.1 * step, "loss": loss, "learning_rate": 0.1, "grad_norm": 1.0}
        state.log_history.append(row)
        state.global_step = step
        callback.on_log(None, state, None)
    assert callback._tensorboard
    callback._tensorboard.flush()


@pytest.mark.parametrize(("checkpoint", "kept"), [(0, {}), (2, {1: 1.0, 2: 1.0})])
def test_steps_that_a_restart_repeats_are_shown_once(
    checkpoint: int, kept: dict[int, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test's process keeps its own
    work = WorkDir(tmp_path)
    resume = tmp_path / "checkpoint" if checkpoint else None
    if resume:
        written = Checkpoint(step=checkpoint, best_step=None, elapsed_seconds=1.0, files=[])
        write_file(resume / layout.CHECKPOINT_MANIFEST, written)
    train(work, None, {1: 1.0, 2: 1.0, 3: 1.0})
    again = {checkpoint + 1: 0.5, checkpoint + 2: 0.5}
    train(work, resume, again)
    events = EventAccumulator(str(work.path(layout.TENSORBOARD)))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert shown == list({**kept, **again}.items())


@pytest.mark.parametrize(("last", "left"), [(8, True), (9, False)])
def test_no_time_is_left_in_training_after_its_last_step(
    last: int, left: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(time, "monotonic", itertools.count(1.0, 10.0).__next__)  # no report comes too soon
    work = WorkDir(tmp_path)
    train(work, None, dict.fromkeys(range(1, last + 1), 1.0))
    progress = read_file(Progress, work.progress)
    assert (progress.step, progress.eta_seconds is not None) == (last, left)


@pytest.mark.parametrize("key", ["eval_loss", "grad_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_training_that_diverges_ends_with_a_sentence(
    key: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    spec = load_spec("A2", overrides=["backend=peft"])
    callback = Steps(spec, WorkDir(tmp_path), None, ProgressFile(tmp_path / "progress.json"), ())
    row = {"step": 3, "epoch": 0.1, key: value}
    state = SimpleNamespace(is_world_process_zero=True, global_step=3, epoch=0.1, max_steps=9, log_history=[row])
    with pytest.raises(JobFailed, match=f"diverged at step 3 .{key} is {value}.; lower training.learning_rate"):
        callback.on_log(None, state, None)


def test_what_a_stage_has_to_do_is_shown_when_it_begins(tmp_path: Path) -> None:
    """The first batch takes a while; what comes at once after another update would be left out."""
    progress = ProgressFile(tmp_path / "progress.json")
    progress.begin("generate")
    progress.count(0, 24)
    assert read_file(Progress, tmp_path / "progress.json") == Progress(stage="generate", step=0, steps=24)
