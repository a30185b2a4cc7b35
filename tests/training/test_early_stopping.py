"""Must show: training stops after so many evaluations without a lower loss, at the same step however often it is resumed."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.job_runs import adapter, start_training, trained, wait_for_step, work_folder

from cefr_batch.config.load import load_spec
from cefr_batch.job.context import StageContext
from cefr_batch.job.stages import run_stage
from cefr_batch.records import layout
from cefr_batch.records.layout import WorkDir
from cefr_batch.training import trainer as training
from cefr_batch.training.early_stopping import stops_early

# A learning rate at which the loss soon rises; evaluations at steps that are no multiple of logging_steps.
SETTINGS = ["backend=peft", "data.examples=40", "data.words_per_example=3", "lora.rank=4", "evaluation.max_examples=4"]
SETTINGS += ["training.batch_size=2", "training.gradient_accumulation_steps=2", "training.max_steps=200"]
SETTINGS += ["training.eval_steps=3", "training.logging_steps=4", "training.learning_rate=0.1"]
SETTINGS += ["training.lr_scheduler=constant", "training.early_stopping=3"]


@given(losses=st.lists(st.integers(0, 5), max_size=30), patience=st.integers(1, 6))
def test_it_stops_where_a_count_kept_along_the_way_says_so(losses: list[int], patience: int) -> None:
    """The counterpart keeps the best loss and a counter, as transformers' callback does in memory."""
    best, waited = None, 0
    for number, loss in enumerate(losses, 1):
        best, waited = (loss, 0) if best is None or loss < best else (best, waited + 1)
        history = [{"step": i, "eval_loss": one} for i, one in enumerate(losses[:number])]
        state = SimpleNamespace(log_history=[{"step": 0, "loss": 1.0}, *history])
        assert stops_early(state, patience) == (waited >= patience)
        assert not stops_early(state, None)


@pytest.mark.parametrize(
    ("step", "losses", "trains"),
    [(6, [3.0, 2.0], True), (6, [2.0, 3.0, 4.0], True), (8, [2.0, 3.0, 4.0, 5.0], False), (10, [3.0, 2.0], False)],
    ids=["falling", "waiting", "waited enough", "at its last step"],
)
def test_from_its_last_checkpoint_nothing_is_trained(
    step: int, losses: list[float], trains: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten steps, with a patience of three. What trains and what loads weights is left out."""
    history = [{"step": 2 * (n + 1), "eval_loss": loss} for n, loss in enumerate(losses)]
    state = {"global_step": step, "max_steps": 10, "log_history": history, "best_model_checkpoint": str(tmp_path / "b")}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    done: list[str] = []
    found = SimpleNamespace(model="the model", train=lambda resume_from_checkpoint: done.append("trained"))
    monkeypatch.setattr(training, "load_weights", lambda model, folder: done.append(f"{folder.name} into {model}"))
    spec = load_spec("A2", overrides=["training.early_stopping=3"])
    training._train_to_the_end(found, spec, tmp_path)
    assert done == ["trained" if trains else "b into the model"]
    assert trains or found.state.global_step == step


def folder(model: Path, root: Path, *extra: str) -> WorkDir:
    return work_folder(root, load_spec("A2", overrides=[f"model.name={model}", *SETTINGS, *extra]))


def again(work: WorkDir) -> None:
    """Train once more from the newest checkpoint, as a job that was killed before it recorded that training is over."""
    work.path(layout.stage_name("train")).unlink()
    shutil.rmtree(work.path(layout.ADAPTER))
    run_stage(StageContext(work), "train")


@pytest.mark.slow
def test_a_stopped_and_resumed_run_stops_at_the_same_step_with_the_same_weights(
    tiny_model: Path, tmp_path: Path
) -> None:
    whole = folder(tiny_model, tmp_path / "whole")
    run_stage(StageContext(whole), "train")
    found = trained(whole)
    assert found.train.stopped_early is not None
    assert found.train.stopped_early.model_dump() == {"evaluations": 3, "planned_steps": 200}
    stop = found.train.steps
    assert stop == found.best.step + 9, "three evaluations after the best one"
    assert stop < 150
    losses = [entry.step for entry in found.log if entry.loss is not None]
    assert losses[-1] == stop, "the last step's loss is in the log, be it no multiple of logging_steps"
    assert losses[:-1] == list(range(4, stop, 4))
    first = (whole.path(layout.stage_name("train"))).read_text()

    # Resumed within the evaluations that are waited for.
    stopped = folder(tiny_model, tmp_path / "stopped")
    process = start_training(stopped)
    wait_for_step(stopped, process, found.best.step + 4)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode in (0, 75), output
    if process.returncode == 75:
        stopped.error.unlink()
        run_stage(StageContext(stopped), "train")
    assert trained(stopped).log == found.log
    assert trained(stopped).train.stopped_early == found.train.stopped_early
    assert adapter(stopped) == adapter(whole)

    # Resumed from the last checkpoint: it must not take a step more.
    before = adapter(whole)
    again(whole)
    assert trained(whole).log == found.log
    assert trained(whole).train.steps == stop
    assert adapter(whole) == before
    assert json.loads(first)["result"]["best"]["step"] == trained(whole).best.step


@pytest.mark.slow
def test_a_run_killed_after_its_last_checkpoint_takes_no_step_more(tiny_model: Path, tmp_path: Path) -> None:
    """In the middle of an epoch, where transformers' trainer itself would take one."""
    work = folder(tiny_model, tmp_path / "run", "training.max_steps=8", "training.early_stopping=null")
    run_stage(StageContext(work), "train")
    found, before = trained(work), adapter(work)
    assert (found.train.steps, found.train.stopped_early) == (8, None)
    again(work)
    assert trained(work).log == found.log
    assert trained(work).train.steps == 8
    assert adapter(work) == before


@pytest.mark.slow
def test_two_processes_stop_early_together(tiny_model: Path, tmp_path: Path) -> None:
    work = folder(tiny_model, tmp_path / "two", "resources.gpus=2")
    process = start_training(work)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    found = trained(work)
    assert found.train.stopped_early is not None
    assert found.train.steps == found.best.step + 9
    assert output.count("training stops early after step") == 1
