"""The models and adapters that benchmarks use."""

from __future__ import annotations

import shutil
from pathlib import Path

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "training_data_b1_list_format_train.json"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def smollm2() -> Path:
    from cefr_batch.config.schema import ModelSpec
    from cefr_batch.models.resolve import resolve_model

    return resolve_model(ModelSpec(name="smollm2", revision=None, alias=None, load_in_4bit=False))


def random_llama(
    folder: Path, tokenizer: Path, *, layers: int, hidden: int, vocabulary: int, max_shard_size: str = "1GB"
) -> Path:
    """A Llama in Llama-3.2's proportions with random weights, in shards, and another model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(tokenizer, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64 // 4 or 1,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        LlamaForCausalLM(config).save_pretrained(folder, max_shard_size=max_shard_size)
    finally:
        torch.set_default_dtype(torch.float32)
    return folder


def random_adapter(model: Path, folder: Path, rank: int) -> Path:
    """A LoRA adapter of the first script's shape whose B is not zero, as training leaves it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    adapted.save_pretrained(folder)
    return folder


def b1_examples(file: Path, number: int) -> Path:
    """The first of the published B1 evaluation examples; where those are missing, built ones."""
    from cefr_batch.config.load import load_spec
    from cefr_batch.data import load_dataset
    from cefr_batch.data.examples import list_format

    overrides = [f"data.train={PUBLISHED}", f"data.eval={PUBLISHED}"] if PUBLISHED.is_file() else ["data.examples=200"]
    spec = load_spec("B1", overrides=[*overrides, "reference=null"])
    file.write_bytes(list_format(load_dataset(spec.data, spec.level).train[:number]))
    return file
