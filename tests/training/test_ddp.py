"""Must show: two processes (gloo, on the CPU) give one process's loss curve within 1e-3 at the same effective batch."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
from support.job_runs import adapter, start_training, trained, wait_for_step, work_folder

from cefr_batch.config.load import load_spec
from cefr_batch.errors import CefrBatchError, Interrupted, JobFailed, LeaseLost, MachineError, OutOfMemory, Problem
from cefr_batch.job.context import StageContext
from cefr_batch.job.stages import run_stage
from cefr_batch.records.control import StageError
from cefr_batch.records.document import read_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.training.process import read_error, write_error

# No dropout: each process draws its own. 36 training examples: every step is full, so that none is repeated to fill it.
SETTINGS = ["backend=peft", "data.examples=40", "data.words_per_example=3", "evaluation.max_examples=4"]
SETTINGS += ["lora.rank=4", "lora.dropout=0.0", "training.batch_size=2", "training.gradient_accumulation_steps=2"]
SETTINGS += ["training.epochs=3", "training.eval_steps=6", "training.logging_steps=1", "training.precision=fp32"]
SETTINGS += ["training.learning_rate=1e-3", "evaluation.batch_size=2"]


def folder(model: Path, root: Path, *extra: str) -> WorkDir:
    return work_folder(root, load_spec("A2", overrides=[f"model.name={model}", *SETTINGS, *extra]))


@pytest.fixture(scope="module")
def by_two(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> WorkDir:
    work = folder(tiny_model, tmp_path_factory.mktemp("two") / "run", "resources.gpus=2")
    process = start_training(work)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert output.count("step 6 epoch") == 2, "one process prints: the loss and the evaluation"
    return work


@pytest.mark.slow
def test_two_processes_train_as_one(tiny_model: Path, tmp_path: Path, by_two: WorkDir) -> None:
    alone = folder(tiny_model, tmp_path / "one")
    run_stage(StageContext(alone), "train")
    one, two = trained(alone), trained(by_two)
    assert two.train.gpus == 2
    assert (two.train.batch_size, two.train.gradient_accumulation_steps, two.train.steps) == (2, 1, 27)
    for key in ("step", "epoch", "learning_rate"):
        assert [getattr(e, key) for e in two.log] == [getattr(e, key) for e in one.log]
    for key in ("loss", "eval_loss", "gradient_norm"):
        curves = [[v for e in r.log if (v := getattr(e, key)) is not None] for r in (two, one)]
        assert curves[0] == pytest.approx(curves[1], abs=1e-3), key
        print(key, "differs by at most", max(abs(a - b) for a, b in zip(*curves, strict=True)))
    assert adapter(by_two) != b""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OutOfMemory("too much"), OutOfMemory),
        (Interrupted("stopped"), Interrupted),
        (MachineError([Problem("GPU", "none")]), JobFailed),
        (LeaseLost("a newer attempt"), JobFailed),
        (ValueError("7"), JobFailed),
    ],
)
def test_what_a_process_says_keeps_its_words_and_its_kind_if_the_job_acts_on_it(
    tmp_path: Path, error: Exception, expected: type[CefrBatchError]
) -> None:
    work = WorkDir(tmp_path)
    write_error(work, error)
    told = read_error(work, "train")
    assert type(told) is expected
    assert str(error) in str(told)


@pytest.mark.slow
def test_two_processes_stop_together_and_resume_exactly(tiny_model: Path, tmp_path: Path, by_two: WorkDir) -> None:
    work = folder(tiny_model, tmp_path / "stopped", "resources.gpus=2")
    process = start_training(work)
    wait_for_step(work, process, 8)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 75, output
    assert read_file(StageError, work.error).kind == "Interrupted"
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    assert 8 <= work.checkpoints()[-1] < 27
    work.error.unlink()
    again = start_training(work)
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert trained(work).log == trained(by_two).log
    assert adapter(work) == adapter(by_two)
