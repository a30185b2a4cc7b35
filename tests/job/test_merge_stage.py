"""Must show: runs of two steps on bases of three types are never FAILED by rounding, and a merge that is broken on purpose
always is."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.job_runs import SETTINGS, work_folder
from transformers import AutoModelForCausalLM

from cefr_batch.config.load import load_spec
from cefr_batch.errors import JobFailed
from cefr_batch.job.context import StageContext
from cefr_batch.job.stages import run_stage
from cefr_batch.models.merge import _Lora, _Shard
from cefr_batch.records import layout
from cefr_batch.records.document import read_file, write_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.stages import MergeCheck, MergeResult, StageRecord

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def base_of(tiny_model: Path, folder: Path, dtype: torch.dtype, *, outlier: float | None = None) -> Path:
    """The tiny model in another type; ``outlier``: a weight of it whose product a gate shuts out."""
    shutil.copytree(tiny_model, folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    if outlier:
        mlp = model.model.layers[1].mlp
        with torch.no_grad():
            mlp.gate_proj.weight[0] = 0
            mlp.up_proj.weight[0, 0] = outlier
    model.to(dtype).save_pretrained(folder)
    return folder


def two_steps(base: Path, folder: Path, *settings: str) -> StageContext:
    """A run up to its merge: two steps of a small learning rate."""
    few = ["training.max_steps=2", "training.learning_rate=2e-5", "generation.examples=0"]
    spec = load_spec("A2", overrides=[f"model.name={base}", *SETTINGS, *few, *settings])
    context = StageContext(work_folder(folder, spec))
    for stage in ("data", "baseline", "train", "tuned"):
        run_stage(context, stage)
    return context


def merged(context: StageContext) -> MergeCheck:
    run_stage(context, "merge")
    return context.result("merge", StageRecord[MergeResult]).merge


def with_settings(context: StageContext, folder: Path, **model: str) -> StageContext:
    """A copy of a run, in a process of its own so to speak."""
    shutil.copytree(context.work.root, folder)
    work = WorkDir(folder)
    record = read_file(SpecRecord, work.path(layout.SPEC))
    changed = {**record.spec, "model": {**record.spec["model"], **model}}  # type: ignore[dict-item]
    write_file(work.path(layout.SPEC), record.model_copy(update={"spec": changed}))
    return StageContext(work)


def stored_type(context: StageContext) -> set[torch.dtype]:
    return {tensor.dtype for tensor in load_file(context.work.path(layout.MERGED) / "model.safetensors").values()}


@pytest.fixture(scope="module", params=list(TYPES), ids=list(TYPES))
def run(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> StageContext:
    folder = tmp_path_factory.mktemp(request.param)
    return two_steps(base_of(tiny_model, folder / "base", TYPES[request.param]), folder / "run")


@pytest.mark.slow
def test_two_steps_never_fail_by_rounding(run: StageContext, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "cefr_batch"):
        auto = merged(with_settings(run, tmp_path / "auto"))
    assert auto.exact_loss == pytest.approx(auto.adapter_loss, abs=1e-5)
    assert list(auto.tried) == ["float16", "bfloat16"]
    assert auto.dtype == min(auto.tried, key=lambda name: auto.tried[name]) == "float16"
    assert "the merged model is in float16; rounding changes an example's loss per token by" in caplog.text
    assert auto.overflow is None
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        context = with_settings(run, tmp_path / name, merged_dtype=name)
        check = merged(context)
        assert stored_type(context) == {dtype}
        assert check.dtype == str(dtype).removeprefix("torch.")
        assert check.tried == {check.dtype: auto.tried[check.dtype]}


@pytest.mark.slow
def test_bf16_is_taken_where_fp16_cannot_hold_the_weights(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = base_of(tiny_model, tmp_path / "base", torch.bfloat16, outlier=70_000)
    run = two_steps(base, tmp_path / "run")
    for wanted in ("auto", "fp16"):
        caplog.clear()
        with caplog.at_level(logging.INFO, "cefr_batch"):
            check = merged(context := with_settings(run, tmp_path / wanted, merged_dtype=wanted))
        assert (check.dtype, check.overflow, list(check.tried)) == ("bfloat16", "weights", ["bfloat16"])
        assert stored_type(context) == {torch.bfloat16}
        (line,) = (one for one in caplog.records if "cannot hold" in one.message)
        assert line.message.endswith("fp16 cannot hold some weights, so it is not taken")
        assert line.levelno == (logging.INFO if wanted == "auto" else logging.WARNING)


def doubled(lora: _Lora, weight: torch.Tensor, pair: dict[str, torch.Tensor]) -> torch.Tensor:
    return weight.float() + 2 * lora.scale * pair["B"].float() @ pair["A"].float()


def transposed(lora: _Lora, weight: torch.Tensor, pair: dict[str, torch.Tensor]) -> torch.Tensor:
    change = lora.scale * pair["B"].float() @ pair["A"].float()
    return weight.float() + change.T.reshape(weight.shape)


@pytest.fixture
def one_weight_wrong(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Has the merge compute a single weight in a wrong way."""
    right = _Lora.applied

    def breaks(wrong: Any) -> None:
        def applied(lora: _Lora, name: str, weight: torch.Tensor) -> torch.Tensor:
            result = right(lora, name, weight)
            return wrong(lora, weight, lora.pairs[name]) if name.endswith("1.mlp.up_proj.weight") else result

        monkeypatch.setattr(_Lora, "applied", applied)

    return breaks  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [doubled, transposed])
def test_a_matrix_that_is_merged_wrongly_is_always_an_error(
    wrong: Any, run: StageContext, tmp_path: Path, one_weight_wrong: Callable[[Any], None]
) -> None:
    one_weight_wrong(wrong)
    context = with_settings(run, tmp_path / "run")
    with pytest.raises(
        JobFailed, match=r"its model\.layers\.1\.mlp\.up_proj\.weight is not the base model's weight plus"
    ):
        run_stage(context, "merge")
    assert not context.work.path(layout.MERGED).exists()


@pytest.mark.slow
def test_a_file_that_is_written_wrongly_is_always_an_error(
    run: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = _Shard._tensors
    monkeypatch.setattr(_Shard, "_tensors", lambda shard: (tensor.flip(0) for tensor in right(shard)))
    with pytest.raises(JobFailed, match="was not written as it was computed"):
        run_stage(with_settings(run, tmp_path / "run"), "merge")


@pytest.mark.slow
def test_an_adapter_that_was_changed_after_its_evaluation_is_always_an_error(run: StageContext, tmp_path: Path) -> None:
    context = with_settings(run, tmp_path / "run")
    file = context.work.path(layout.ADAPTER_WEIGHTS)
    key = next(key for key in load_file(file) if "q_proj.lora_B" in key)
    save_file({k: v * 2 if k == key else v for k, v in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(JobFailed, match="is not the adapter that was evaluated"):
        run_stage(context, "merge")
