"""Must show: out of memory at steps 1, 7 and 30, the run completes with the same steps, batches and, nearly, loss."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.job_runs import claimed_run, stored, work_folder
from support.job_runs import trained as train_result
from support.scarce_memory import Seen, environment, limited

from cefr_batch.config.load import load_spec
from cefr_batch.errors import JobFailed, OutOfMemory
from cefr_batch.job.context import StageContext
from cefr_batch.job.stages import run_stage
from cefr_batch.records import layout
from cefr_batch.records.stages import TrainResult
from cefr_batch.records.training import OomEvent
from cefr_batch.store.local import LocalStore

SETTINGS = ["backend=peft", "data.examples=50", "data.words_per_example=3", "lora.rank=4", "evaluation.max_examples=4"]
SETTINGS += ["training.batch_size=8", "training.gradient_accumulation_steps=1", "training.epochs=6"]
SETTINGS += ["training.eval_steps=5", "training.logging_steps=1", "training.learning_rate=1e-3"]
EXAMPLES, STEPS = 45, 36


def trained(
    model: Path, root: Path, sizes: Mapping[int, int], monkeypatch: pytest.MonkeyPatch
) -> tuple[TrainResult, Seen]:
    """The result of the training stage, started again after each time it ran out of memory, and every batch tried."""
    from trl import SFTTrainer

    spec = load_spec("B1", overrides=[f"model.name={model}", *SETTINGS])
    work = work_folder(root, spec)
    seen: Seen = []
    with monkeypatch.context() as patch:
        patch.setattr(SFTTrainer, "training_step", limited(SFTTrainer.training_step, sizes, seen))
        while True:
            try:
                run_stage(StageContext(work), "train")
            except OutOfMemory:
                continue
            return train_result(work), seen


@pytest.fixture(scope="module")
def undisturbed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    with pytest.MonkeyPatch.context() as patch:
        result, seen = trained(tiny_model, tmp_path_factory.mktemp("undisturbed") / "run", {}, patch)
    assert {rows for _, rows in seen} <= set(range(1, 9))
    return result


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 7, 30])
def test_out_of_memory_once(
    step: int, tiny_model: Path, tmp_path: Path, undisturbed: TrainResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, seen = trained(tiny_model, tmp_path / "run", {step: 4}, monkeypatch)
    figures, reference = result.train, undisturbed.train
    assert figures.out_of_memory == [OomEvent(step=step, batch_size=8)]
    assert (figures.batch_size, figures.gradient_accumulation_steps) == (4, 2)
    assert figures.steps == reference.steps == STEPS
    assert [e.step for e in result.log] == [e.step for e in undisturbed.log]
    assert [e.learning_rate for e in result.log] == [e.learning_rate for e in undisturbed.log]
    assert figures.final_loss == pytest.approx(reference.final_loss, rel=0.01)

    failed = next(i for i, (at, rows) in enumerate(seen) if at == step and rows > 4)
    checkpoint = (step - 1) // 5 * 5
    assert seen[failed + 1][0] == checkpoint + 1, "what the last checkpoint has is not done again"
    assert {rows for _, rows in seen[failed + 1 :]} <= {1, 2, 3, 4}
    for number in range(checkpoint + 1, STEPS + 1):
        examples = sum(rows for at, rows in seen[failed + 1 :] if at == number)
        assert examples == (8 if number % 6 else EXAMPLES % 8), "a step has as many examples as before"


@pytest.mark.slow
def test_a_job_goes_on_by_itself_with_smaller_and_smaller_batches(tiny_model: Path, tmp_path: Path) -> None:
    """Twice in one job, by the command that every scheduler starts; the run's record says so."""
    store = LocalStore(tmp_path / "store")
    run = claimed_run(store, tiny_model, "training.batch_size=4")
    command = [sys.executable, "-m", "cefr_batch", "run-job", run, "--store", store.url]
    (tmp_path / "scarce").mkdir()
    scarce = environment({1: 2, 7: 1}, tmp_path / "scarce")
    done = subprocess.run(command, env=scarce, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    train = stored(store, run, layout.METRICS)["train"]
    expected = [{"step": 1, "batch_size": 4}, {"step": 7, "batch_size": 2}]
    assert train["out_of_memory"] == expected
    assert (train["batch_size"], train["gradient_accumulation_steps"], train["steps"]) == (1, 4, 8)
    assert "step 7 ran out of memory with 2 examples at once; training resumes from the last checkpoint" in done.stdout
    assert "with 1 at once, 4 times a step" in done.stdout
    assert stored(store, run, layout.STATUS)["attempt"] == 1
    manifest = stored(store, run, f"{layout.checkpoint_name(8)}/{layout.CHECKPOINT_MANIFEST}")
    assert manifest["out_of_memory"] == expected


@pytest.mark.slow
def test_when_not_even_one_example_fits_the_stage_fails(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(JobFailed, match="step 1 does not fit into the GPU's memory with one example at a time"):
        trained(tiny_model, tmp_path / "run", {1: 0}, monkeypatch)


@pytest.mark.parametrize("stage", ["baseline", "tuned", "merge"])
@pytest.mark.parametrize(("size", "remedy"), [(8, "lower evaluation.batch_size, which is 8, or take"), (1, "take")])
def test_an_evaluation_that_does_not_fit_says_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, size: int, remedy: str
) -> None:
    """A fake: no memory is short; loading the model raises what torch would raise."""

    def scarce(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. (A test's fake.)")

    monkeypatch.setattr(StageContext, "evaluate", scarce)
    monkeypatch.setattr(StageContext, "tuned_model", None)
    monkeypatch.setattr(StageContext, "model_path", tmp_path)
    monkeypatch.setattr("cefr_batch.models.loading.load_for_evaluation", scarce)
    monkeypatch.setattr("cefr_batch.models.loading.stored_dtype", scarce)
    monkeypatch.setattr(StageContext, "result", lambda *_: SimpleNamespace(adapter_sha256="", examples=()))
    monkeypatch.setattr("cefr_batch.job.stages.merge._loss", lambda *_: 0.0)
    monkeypatch.setattr("cefr_batch.job.stages.merge._require_evaluated_adapter", lambda *_: None)
    monkeypatch.setattr("cefr_batch.job.stages.merge._try_types", scarce)
    spec = load_spec("B1", overrides=[*SETTINGS, f"evaluation.batch_size={size}"])
    with pytest.raises(JobFailed) as caught:
        run_stage(StageContext(work_folder(tmp_path / "run", spec)), stage)
    assert str(caught.value) == f"stage {stage} ran out of the GPU's memory; {remedy} a larger GPU"
