"""Must show: the merge gives, bit for bit, what PEFT's merge in memory gives, for every kind of base that runs may have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from support.prompts import alpaca
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from cefr_batch.errors import JobFailed
from cefr_batch.models.loading import load_for_evaluation, stored_dtype
from cefr_batch.models.merge import MergedWeights, check_loss, merge
from cefr_batch.records.stages import MergeCheck

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base_model(folder: Path, tiny_model: Path, dtype: torch.dtype, max_shard_size: str = "1GB", **config: Any) -> Path:
    """A random Llama with the tiny model's tokenizer."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=600,
            hidden_size=48,
            intermediate_size=80,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=1,
            **config,
        )
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def adapter_of(base: Path, folder: Path, *, scale: float = 0.1, **config: Any) -> Path:
    """A LoRA adapter on the base whose B is not zero, as training leaves it."""
    torch.manual_seed(2)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM", **config)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=scale)
    model.save_pretrained(folder)
    return folder


def merged_with_peft(base: Path, adapter: Path, folder: Path) -> Path:
    merged = PeftModel.from_pretrained(load_for_evaluation(base).cpu(), adapter).merge_and_unload()
    merged = merged.to(stored_dtype(base))
    merged.config.dtype = stored_dtype(base)
    merged.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(alpaca().as_template(""))
    GenerationConfig(eos_token_id=[0], pad_token_id=1, do_sample=False).save_pretrained(folder)
    return folder


def merged_by_us(base: Path, adapter: Path, folder: Path, dtype: torch.dtype | None = None) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(base)
    merge(base, adapter, tokenizer, alpaca(), dtype or stored_dtype(base), folder, folder.with_name("tmp"))
    return folder


def merged_in_memory(base: Path, adapter: Path) -> Any:
    """By PEFT, in fp32."""
    model = PeftModel.from_pretrained(load_for_evaluation(base).cpu(), adapter).eval()
    model.merge_adapter()
    return model.get_base_model()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize(
    ("dtype", "config"),
    [
        (torch.bfloat16, {"tie_word_embeddings": True}),
        (torch.bfloat16, {"tie_word_embeddings": False}),
        (torch.float16, {"attention_bias": True, "mlp_bias": True}),
        (torch.float32, {"tie_word_embeddings": True}),
        (torch.bfloat16, {"max_shard_size": "100KB"}),
    ],
    ids=["bf16-tied", "bf16-untied", "fp16-with-biases", "fp32", "sharded"],
)
def test_merged_bit_for_bit_as_peft_does(
    dtype: torch.dtype, config: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    base = base_model(tmp_path / "base", tiny_model, dtype, **config)
    adapter = adapter_of(base, tmp_path / "adapter")
    ours = merged_by_us(base, adapter, tmp_path / "ours")
    theirs = merged_with_peft(base, adapter, tmp_path / "theirs")
    expected, got = weights(theirs), weights(ours)
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype == stored_dtype(base)
        assert torch.equal(got[name], tensor), name
    assert len(list(ours.glob("*.safetensors"))) == len(list(base.glob("*.safetensors")))
    for file in theirs.iterdir():
        if not file.name.startswith("model"):
            assert (ours / file.name).read_bytes() == file.read_bytes()
    assert sorted(p.name for p in ours.iterdir() if not p.name.startswith("model")) == sorted(
        p.name for p in theirs.iterdir() if not p.name.startswith("model")
    )
    assert_loads_alike(ours, theirs)


def assert_loads_alike(ours: Path, theirs: Path) -> None:
    tokens = torch.arange(20).reshape(1, 20)
    with torch.no_grad():
        logits = [AutoModelForCausalLM.from_pretrained(folder).eval()(tokens).logits for folder in (ours, theirs)]
    assert torch.equal(*logits)


def test_a_checkpoint_that_stores_its_tied_head_too(tiny_model: Path, tmp_path: Path) -> None:
    base = base_model(tmp_path / "base", tiny_model, torch.bfloat16, tie_word_embeddings=True)
    file = base / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file, {"format": "pt"})
    adapter = adapter_of(base, tmp_path / "adapter")
    assert_loads_alike(
        merged_by_us(base, adapter, tmp_path / "ours"), merged_with_peft(base, adapter, tmp_path / "theirs")
    )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_rslora": True}, "use_rslora is True"),
        ({"use_dora": True}, "use_dora is True"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "lm_head.weight is not a LoRA matrix"),
    ],
)
def test_what_our_runs_never_make_is_refused(
    config: dict[str, Any], reason: str, tiny_model: Path, tmp_path: Path
) -> None:
    base = base_model(tmp_path / "base", tiny_model, torch.bfloat16)
    adapter = adapter_of(base, tmp_path / "adapter", **config)
    with pytest.raises(JobFailed, match=reason):
        merged_by_us(base, adapter, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_an_adapter_of_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    base = base_model(tmp_path / "base", tiny_model, torch.bfloat16)
    adapter = adapter_of(base, tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    save_file({name.replace("layers.1.", "layers.7."): tensor for name, tensor in load_file(file).items()}, file)
    with pytest.raises(JobFailed, match=r"no weights for model\.layers\.7\.mlp\.down_proj\.weight \(and 6 more\)"):
        merged_by_us(base, adapter, tmp_path / "ours")


def test_the_file_is_what_the_formats_library_would_write(tiny_model: Path, tmp_path: Path) -> None:
    """Byte for byte, so every reader of the format takes it."""
    base = base_model(tmp_path / "base", tiny_model, torch.bfloat16)
    adapter = adapter_of(base, tmp_path / "adapter")
    ours = merged_by_us(base, adapter, tmp_path / "ours") / "model.safetensors"
    save_file(load_file(ours), tmp_path / "theirs", {"format": "pt"})
    assert ours.read_bytes() == (tmp_path / "theirs").read_bytes()
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("target", [torch.bfloat16, torch.float16], ids=["to bf16", "to fp16"])
def test_a_small_update_is_merged_as_peft_does_and_written_as_computed(
    dtype: torch.dtype, target: torch.dtype, tiny_model: Path, tmp_path: Path
) -> None:
    """A base of large weights and a small update that bf16 cannot hold: right, though the rounded loss is another."""
    base = base_model(tmp_path / "base", tiny_model, dtype)
    adapter = adapter_of(base, tmp_path / "adapter", scale=0.002)
    weights, exact = MergedWeights(base, adapter), merged_in_memory(base, adapter)
    expected = max(float(parameter.abs().max()) for parameter in exact.parameters())
    assert weights.check_against(exact) == pytest.approx(expected, rel=1e-6)
    loss = loss_of(exact)
    merged = merged_by_us(base, adapter, tmp_path / "ours", target)
    reloaded = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    weights.check_written(reloaded, target)
    weights.put_into(exact, target)
    assert loss_of(exact) == loss_of(reloaded) == pytest.approx(loss, abs=0.1)
    if target == torch.bfloat16:
        assert loss_of(reloaded) != loss
    assert {tensor.dtype for tensor in load_file(merged / "model.safetensors").values()} == {target}
    assert stored_dtype(merged) == target


def change_adapter(adapter: Path, wrong: str, target: Path) -> Path:
    shutil.copytree(adapter, target)
    file = target / "adapter_model.safetensors"
    key = next(key for key in load_file(file) if "q_proj.lora_B" in key)
    change = {"doubled": lambda b: b * 2, "turned over": lambda b: b.flip(0), "left out": torch.zeros_like}[wrong]
    save_file({k: change(v) if k == key else v for k, v in load_file(file).items()}, file, {"format": "pt"})
    return target


@pytest.mark.parametrize("wrong", ["doubled", "turned over", "left out"])
@pytest.mark.parametrize("scale", [2e-5, 0.1], ids=["tiny update", "large update"])
def test_a_wrong_merge_is_an_error_however_small_the_update(
    wrong: str, scale: float, tiny_model: Path, tmp_path: Path
) -> None:
    base = base_model(tmp_path / "base", tiny_model, torch.bfloat16)
    adapter = adapter_of(base, tmp_path / "adapter", scale=scale)
    broken = change_adapter(adapter, wrong, tmp_path / "broken")
    with pytest.raises(JobFailed, match=r"wrong: its model.*q_proj.weight is not the base model's weight plus"):
        MergedWeights(base, broken).check_against(merged_in_memory(base, adapter))
    merged = merged_by_us(base, broken, tmp_path / "ours", torch.float16)
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    if scale == 0.1:  # of less, fp16 cannot hold the difference, and what was written is right
        with pytest.raises(JobFailed, match=r"wrong: its model.*q_proj.weight was not written as it was computed"):
            MergedWeights(base, adapter).check_written(model, torch.float16)


def test_a_loss_that_should_be_the_same_and_is_not_is_an_error() -> None:
    check_loss(2.5, 2.50005, "it")
    for other in (2.5002, float("nan")):
        with pytest.raises(JobFailed, match=f"wrong: it has a loss of {other:.4f} instead of 2.5000; .* pull RUN"):
            check_loss(2.5, other, "it")


def test_a_noticeable_loss_of_precision() -> None:
    check = MergeCheck(adapter_loss=2.5, exact_loss=2.5, merged_loss=2.504, dtype="bfloat16", examples=16)
    assert check.rounding_change is None
    assert check.model_copy(update={"merged_loss": 2.556}).rounding_change == pytest.approx(0.056)
    assert check.model_copy(update={"exact_loss": None}).rounding_change is None


def loss_of(model: Any) -> float:
    tokens = torch.arange(2, 200).reshape(2, 99)
    with torch.no_grad():
        return float(model(input_ids=tokens, labels=tokens).loss)
