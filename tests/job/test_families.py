"""Must show: a model of each family that users fine-tune goes through a whole job, by both prompt formats, as planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file
from support.families import FAMILIES
from support.job_runs import SETTINGS, work_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from cefr_batch.cli.main import main
from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import RunSpec
from cefr_batch.data import Example
from cefr_batch.files import read_json
from cefr_batch.job.context import StageContext
from cefr_batch.job.stages import run_stage
from cefr_batch.models.architecture import FAMILIES as KINDS
from cefr_batch.models.architecture import Architecture
from cefr_batch.models.resolve import all_linear, check_model
from cefr_batch.records import layout
from cefr_batch.records.stages import BaselineResult, GenerateResult, StageRecord, TunedResult

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "model-families.md").read_text(encoding="utf-8").splitlines()
STAGES = ("data", "baseline", "train", "tuned", "generate", "merge")
SMALL = [*SETTINGS, "data.examples=8", "data.words_per_example=1", "evaluation.max_examples=2", "generation.examples=1"]
SMALL += ["training.max_steps=2", "training.max_length=1024", "generation.max_new_tokens=4"]


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["alpaca", "chat"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_job(kind: str, prompt: str, tiny_model: Path, tmp_path: Path) -> None:
    """All stages, whose merge compares itself with PEFT's; then transformers alone with what the job leaves."""
    base = FAMILIES[kind].make(tiny_model, tmp_path / "base")
    spec = load_spec("A2", overrides=[f"model.name={base}", f"model.prompt={prompt}", *SMALL])
    spec = spec.with_target_modules(all_linear(spec.model))
    assert check_model(spec.model, spec.lora.target_modules) == []
    context = StageContext(work_folder(tmp_path / "run", spec))
    for stage in STAGES:
        run_stage(context, stage)
    before = context.result("baseline", StageRecord[BaselineResult]).baseline.full.loss
    after = context.result("tuned", StageRecord[TunedResult]).tuned.full.loss
    assert before != after

    merged = context.work.path(layout.MERGED)
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    texts = context.result("generate", StageRecord[GenerateResult]).texts
    assert texts
    asked = context.evaluated[texts.examples[0].index]
    ids = asked_by_others(merged, asked)
    assert AutoTokenizer.from_pretrained(merged).decode(ids) == whole_prompt(context, prompt, asked)
    adapter = load_file(context.work.path(layout.ADAPTER_WEIGHTS))
    assert row(kind, spec, model, adapter) in DOCUMENTED


def asked_by_others(folder: Path, example: Example) -> Any:
    """The prompt's tokens, by the chat template of a folder."""
    messages = [{"role": "user", "content": example.instruction}]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def whole_prompt(context: StageContext, prompt: str, example: Example) -> str:
    """With the begin-of-text token that the tokenizer adds where the format does not write it."""
    return ("<bos>" if prompt == "alpaca" else "") + context.prompts.prompt(example)


def row(kind: str, spec: RunSpec, model: Any, adapter: dict[str, torch.Tensor]) -> str:
    """The family's row of the table in the documentation, by what was measured; the plan must agree with it."""
    sizes = Architecture.of(read_json(Path(spec.model.name) / "config.json"))
    assert sizes
    parameters, lora = model.num_parameters(), sum(matrix.numel() for matrix in adapter.values())
    assert sizes.parameters == parameters
    assert sizes.lora_parameters(spec.lora.rank, spec.lora.target_modules) == lora
    adapted = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in adapter}
    linears = {name for name, one in model.model.named_modules() if isinstance(one, torch.nn.Linear)}
    assert adapted == {f"model.{name}" for name in linears}, "all-linear is every linear module of the layers"
    modules = ", ".join(spec.lora.target_modules)
    tied = "tied" if sizes.tied else "its own"
    cells = [FAMILIES[kind].stands_for, f"`{kind}`", modules, tied, f"{parameters:,}", f"{lora:,}", gguf_name(model)]
    return f"| {' | '.join(cells)} |"


def gguf_name(model: Any) -> str:
    """llama.cpp's name of the architecture, which has a place for each weight of the model."""
    kind = model.config.model_type.removesuffix("_text").replace("mistral", "llama")
    (architecture,) = (key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    lost = [name for name, _ in model.named_parameters() if not names.get_name(name, try_suffixes=(".weight",))]
    assert lost == []
    return f"`{kind}`"


def test_the_table_names_every_family_whose_sizes_are_known() -> None:
    """Those that no job here was run with are named, too, by their types alone."""
    text = "\n".join(DOCUMENTED)
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []


def plan(folder: Path, capsys: pytest.CaptureFixture[str], *settings: str) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    capsys.readouterr()
    options = [word for setting in (f"model.name={folder}", *settings) for word in ("--set", setting)]
    code = main(["plan", "--level", "B1", "--profile", "smoke", *options, "--json"])
    return code, *capsys.readouterr()


def test_fused_modules_are_named_where_a_job_file_names_llamas(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = FAMILIES["phi3"].make(tiny_model, tmp_path / "phi3")
    code, _, said = plan(folder, capsys)
    assert code == 1
    assert "lora.target_modules: gate_proj, k_proj, q_proj, up_proj, v_proj: no such modules in the model" in said
    assert (
        "it has down_proj, gate_up_proj, o_proj, qkv_proj (set lora.target_modules=all-linear for all of them)" in said
    )
    code, out, _ = plan(folder, capsys, "lora.target_modules=all-linear")
    assert code == 0
    (planned,) = json.loads(out)["plans"]
    assert planned["spec"]["lora"]["target_modules"] == ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def test_a_model_that_reads_pictures_is_refused(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gemma 3 from 4B on: in transformers its modules have other names than in its files, so a merge would fail."""
    folder = FAMILIES["gemma3_text"].make(tiny_model, tmp_path / "gemma3")
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "gemma3", "vision_config": {"patch_size": 14}})
    )
    code, _, said = plan(folder, capsys)
    assert code == 1
    assert f"model.name: {folder} reads pictures or sound besides text" in said
