"""The figures of a benchmark from what runs left, its table, and what becomes of a case that cannot run or fails."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cefr_batch.bench import measure
from cefr_batch.bench.cases import CASES, COMMON, REFERENCE, BenchCase, chosen
from cefr_batch.bench.figures import CaseFigures, Outcome, RunComparison, batch_too_large, compared, step_seconds
from cefr_batch.bench.machine import _SIZES, SHAPES, BenchMachine
from cefr_batch.bench.measure import BenchReport, CaseResult, run_bench
from cefr_batch.bench.profiled import StepProfile, kind_of, summed
from cefr_batch.bench.table import markdown
from cefr_batch.cli.main import main
from cefr_batch.config.load import load_spec
from cefr_batch.errors import OutOfMemory, UsageError
from cefr_batch.models.architecture import Architecture
from cefr_batch.planning.memory import BatchShape, TargetDevice, training_memory
from cefr_batch.records import layout
from cefr_batch.records.document import write_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.stages import StageRecord, TrainResult
from cefr_batch.records.training import BestCheckpoint, LogEntry, Machine, OomEvent, TrainingFigures
from cefr_batch.training.process import write_error

CPU = BenchMachine(gpus=0, name="a CPU", memory=0, bf16=False, flops=1e11, versions={"torch": "2"})
GPU = replace(CPU, gpus=1, name="a GPU", memory=24 * 10**9, bf16=True, flops=1e14)


def train_result(*losses: float) -> TrainResult:
    log = [LogEntry(step=step, epoch=1.0, loss=loss) for step, loss in enumerate(losses, 1)]
    figures = TrainingFigures(
        examples=8, steps=len(log), epochs=1.0, duration_seconds=1.0, samples_per_second=8.0, final_loss=losses[-1],
        batch_size=2, gradient_accumulation_steps=1, out_of_memory=[OomEvent(step=1, batch_size=4)],
    )  # fmt: skip
    return TrainResult(
        train=figures,
        log=log,
        best=BestCheckpoint(step=1, epoch=1.0, eval_loss=1.0),
        machine=Machine(cpu="a CPU", threads=1, gpu=None),
        versions={},
        model_revision=None,
    )


def test_the_random_models_have_the_parameters_of_those_whose_shape_they_have() -> None:
    def parameters(shape: str) -> int:
        config = dict(zip(_SIZES, SHAPES[shape], strict=True))
        found = Architecture.of({"model_type": "llama", "tie_word_embeddings": True, **config})
        assert found
        return found.parameters

    assert parameters("llama-1b") == 1_235_814_400
    assert parameters("llama-135m") == 134_515_008


def test_a_step_is_the_median_between_the_losses_of_steps_that_follow_each_other(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        for step, moment in {1: 0.0, 2: 10.0, 3: 10.5, 4: 11.0, 5: 11.75, 9: 11.8, 10: 12.2}.items():
            writer.add_scalar("train/loss", 1.0, step, walltime=1000 + moment)
    assert step_seconds(tmp_path) == pytest.approx(0.5)


def test_runs_are_compared_by_weights_and_losses(tmp_path: Path) -> None:
    one, other = (Outcome(train_result(*losses), "a", tmp_path) for losses in ((3.0, 2.0), (3.0, 2.25)))
    assert compared(one, "other", one) == RunComparison("other", True, 0.0)
    assert compared(one, "x", replace(other, adapter_sha256="b")) == RunComparison("x", False, 0.25)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn", "products of matrices"),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NTT", "products of matrices"),
        ("aten::addmm", "products of matrices"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128>>", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", "attention"),
        ("void kDequantizeBlockwise<__nv_bfloat16, 512, 64, 8, 2>", "unpacking 4-bit weights"),
        ("void kOptimizerStatic8bit2StateBlockwise<__nv_bfloat16, 0, 256, 1>", "optimizer"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("triton_poi_fused_mul_silu_0", "Triton"),
        ("_rope_embedding_QK", "Triton"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::MulFunctor<float>>", "all else"),
    ],
)
def test_kernels_are_told_apart_by_their_names(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


def test_a_profile_says_how_much_of_a_step_is_computed_and_by_what() -> None:
    found = summed([1.0, 3.0], [("aten::mm", 1.5), ("Memcpy", 0.5), ("aten::mm", 1.0)])
    assert found == StepProfile(
        step_seconds=2.0,
        busy=0.75,
        kinds={"products of matrices": 0.833, "copies": 0.167},
        top={"aten::mm": 0.833, "Memcpy": 0.167},
    )
    assert summed([1.0], []).busy == 0.0, "where the profiler may not look at the GPU"


def test_the_batch_that_is_to_run_out_of_memory_is_one_that_the_plan_refuses(tiny_model: Path) -> None:
    spec = load_spec("B1", overrides=[f"model.name={tiny_model}", "backend=peft", *COMMON])
    model = Architecture.of({**dict(zip(_SIZES, (600, 32, 64, 2, 4, 2), strict=True)), "model_type": "llama"})
    assert model
    of_eight = training_memory(model, spec, BatchShape(8, 300), TargetDevice(cuda=True, bf16=True)).total
    assert batch_too_large(spec, replace(GPU, memory=of_eight)) in (16, 32, 64, 128)
    assert batch_too_large(spec, replace(GPU, memory=2**60)) == 1024


def test_cases_are_chosen_by_name() -> None:
    assert chosen([]) == list(CASES)
    assert [case.name for case in chosen(["large-peft", REFERENCE])] == [REFERENCE, "large-peft"]
    with pytest.raises(UsageError, match=f"no case huge; choose from {REFERENCE}"):
        chosen(["huge"])
    names = [case.name for case in CASES]
    assert all(names.index(case.same_as) < names.index(case.name) for case in CASES if case.same_as)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_settings_of_every_case_are_valid(case: BenchCase) -> None:
    spec = load_spec("B1", overrides=["model.name=smollm2", *COMMON, *case.settings])
    assert (spec.lora.rank, spec.training.optimizer) == (128, "adamw_8bit"), "the level's own recipe"
    assert spec.training.max_steps
    assert spec.training.eval_steps < spec.training.max_steps, "it has a checkpoint from which it can resume"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs cases on a machine that was not measured; returns what ``on_case`` was told."""

    def run(cases: Sequence[BenchCase], machine: BenchMachine = CPU) -> list[CaseResult]:
        monkeypatch.setattr(measure, "_prepared", lambda *_: machine)
        told: list[BenchReport] = []
        report = run_bench(cases, tmp_path / "out", gpu=machine.gpus > 0, on_case=told.append)
        assert [len(so_far.cases) for so_far in told] == list(range(1, len(cases) + 1)), (
            "nothing is lost if it is stopped"
        )
        assert report == told[-1]
        assert not (tmp_path / "out" / "scratch").exists()
        return report.cases

    return run


def test_what_a_machine_cannot_show_is_left_out_by_its_reason(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = bench([case for case in CASES if case.needs])
    assert {(one.ran, one.failed) for one in left_out} == {(False, False)}
    assert [one.problem for one in left_out] == [f"left out: it needs {case.needs}" for case in CASES if case.needs]
    monkeypatch.setattr(measure, "find_spec", lambda name: None)
    left_out = bench(chosen(["large-unsloth", "small-two-gpus"]), GPU)
    assert [one.problem for one in left_out] == [
        f"left out: it needs {what}" for what in ("Unsloth on a GPU", "two GPUs")
    ]
    monkeypatch.setattr(measure, "LIMIT_SECONDS", -1.0)
    (result,) = bench(chosen(["large-peft"]), GPU)
    assert (result.ran, result.problem) == (False, "left out: the -1 seconds for all cases were over")


def test_a_case_that_fails_says_why_and_the_others_go_on(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def spec_of(_: Any, case: BenchCase) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access") if case.name == REFERENCE else UsageError("no such")

    monkeypatch.setattr(measure._Bench, "_spec", spec_of)
    before = dict(os.environ)
    first, second = bench(chosen([REFERENCE, "large-peft"]))
    assert dict(os.environ) == before
    assert (first.failed, first.problem) == (True, "RuntimeError: CUDA error: an illegal memory access")
    assert (second.failed, second.problem) == (True, "no such")


def test_the_training_stage_goes_on_with_smaller_batches_as_in_a_job(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake for the stage's process: it runs out of memory once."""
    work, calls = WorkDir(tmp_path / "scratch" / "work" / "large-peft"), list[Sequence[str]]()

    def process(_: Any, words: Sequence[str], *rest: Any) -> int:
        calls.append(words)
        if len(calls) == 1:
            return write_error(work, OutOfMemory("step 1 ran out of memory"))
        work.path(layout.ADAPTER).mkdir()
        work.path(layout.ADAPTER_WEIGHTS).write_bytes(b"weights")
        record = StageRecord[TrainResult](stage="train", seconds=1.0, result=train_result(2.0))
        write_file(work.path(layout.stage_name("train")), record)
        return 0

    monkeypatch.setattr(measure._Bench, "_process", process)
    spec = load_spec("B1", overrides=[f"model.name={tiny_model}", "backend=peft", *COMMON])
    (case,) = chosen(["large-peft"])
    found = measure._Bench(tmp_path, GPU, float("inf"))._trained(case, spec)
    assert len(calls) == 2
    assert found.train.train.out_of_memory == [OomEvent(step=1, batch_size=4)]
    assert found.profile is None


FIGURES = CaseFigures(
    batch="8 x 2", step_seconds=0.25, tokens_per_second=18_560.0, share=0.61, training_seconds=9.0,
    peak_memory_gb=15.2, planned_memory_gb=15.9, out_of_memory=[16], stage_seconds={"data": 0.04, "train": 20.0},
    repeated_steps=2, comparison=RunComparison(REFERENCE, False, 0.0125),
    profile=StepProfile(0.26, 0.9, {"products of matrices": 0.7, "all else": 0.3}, {}),
)  # fmt: skip


def test_the_table_for_docs() -> None:
    cases = [
        CaseResult("one", 30.0, True, "", FIGURES),
        CaseResult("two", 1.0, True, "a | b\nfailed", None),
        CaseResult("three", 0.0, False, "left out: it needs a GPU", None),
    ]
    lines = markdown(BenchReport(GPU, "2026-11-26T20:00:00+00:00", 61.0, cases)).splitlines()
    assert lines == [
        "a GPU: 24.0 GB, 100.0 TFLOP/s in products of matrices (bf16). Measured 2026-11-26 in 61 s, with torch 2.",
        "",
        "| case | batch | a step | tokens/s | of products' rate | peak GB / planned | result |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| one | 8 x 2 | 0.250 s | 18,560 | 61 % | 15.2 / 15.9 | done; ran out of memory with 16 examples at once, and went "
        "on; other weights than small-job; losses at most 0.013 apart; repeated 2 steps |",
        "| two |  |  |  |  |  | a \\| b failed |",
        "| three |  |  |  |  |  | left out: it needs a GPU |",
        "",
        "| case | where the time goes |",
        "| --- | --- |",
        "| one | train 20.0 s, starting and storing 10.0 s |",
        "| one | of a step 90 % computing: products of matrices 70 %, all else 30 % |",
    ]


@pytest.mark.slow
def test_without_a_gpu_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(["bench", "--gpu", "--out", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "finds no GPU here" in line
    assert "--cpu runs what a CPU can show" in line
    assert list(tmp_path.iterdir()) == []
    assert main(["bench", "--case", "huge"]) == 2
