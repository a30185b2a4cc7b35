"""What fits on a card, how long it takes: held to published figures, and the way out where something does not fit."""

from __future__ import annotations

from typing import Any

import pytest
from support.counting import CountedBy
from support.flops import counted

from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import RunSpec
from cefr_batch.data import Dataset, Example
from cefr_batch.errors import UsageError
from cefr_batch.models.architecture import Architecture
from cefr_batch.planning.capacity import Fit, estimate_capacity
from cefr_batch.planning.gpus import GPUS, find_gpu
from cefr_batch.planning.memory import GIB, BatchShape, TargetDevice, training_memory
from cefr_batch.planning.plan import make_plan

# config.json of unsloth/Llama-3.2-1B-Instruct, unsloth/Llama-3.1-8B-Instruct and Llama 2 7B, as far as it counts here.
LLAMA_1B = {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
}  # fmt: skip
LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA_2_7B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False,
}  # fmt: skip
CUDA = TargetDevice(cuda=True, bf16=True)


def architecture(config: dict[str, Any]) -> Architecture:
    found = Architecture.of(config)
    assert found
    return found


def fit(config: dict[str, Any], gpu: str, *settings: str, tokens: int = 263, longest: int = 298) -> Fit:
    """1,800 training examples of so many tokens, as the first report's B1 had (counted with SmolLM2's tokenizer)."""
    return fit_of(load_spec("B1", overrides=["backend=unsloth", *settings]), config, gpu, tokens, longest)


def fit_of(spec: RunSpec, config: dict[str, Any], gpu: str, tokens: int, longest: int) -> Fit:
    examples = tuple(Example("x", "", "y") for _ in range(1800))
    lengths = {1800: [longest, *[tokens] * 1799], 200: [longest] * 200}
    plan = make_plan(spec, Dataset(examples, examples[:200]), CountedBy(lambda some: lengths[len(some)]))
    return estimate_capacity(spec, plan, architecture(config), GPUS[gpu], 0.40)


def needed(config: dict[str, Any], batch: BatchShape, *settings: str) -> float:
    """GB of training."""
    spec = load_spec("B1", overrides=["training.gradient_checkpointing=true", "lora.dropout=0.0", *settings])
    return training_memory(architecture(config), spec, batch, CUDA).total / 1e9


def test_parameters_are_those_that_the_model_cards_give() -> None:
    """1.24 B (https://huggingface.co/meta-llama/Llama-3.2-1B-Instruct), 8.03 B, 6.74 B; LoRA as PEFT counts it."""
    assert architecture(LLAMA_1B).parameters == 1_235_814_400
    assert architecture(LLAMA_8B).parameters == 8_030_261_248
    assert architecture(LLAMA_2_7B).parameters == 6_738_415_616
    spec = load_spec("B1")
    assert architecture(LLAMA_1B).lora_parameters(128, spec.lora.target_modules) == 90_177_536


def test_parameters_are_those_that_transformers_and_peft_make() -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = {**LLAMA_8B, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 500}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**config))
    assert architecture(config).parameters == sum(p.numel() for p in model.parameters())
    modules = ["q_proj", "o_proj", "down_proj"]
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=modules))
    assert architecture(config).lora_parameters(4, modules) == adapted.get_nb_trainable_parameters()[0]


def test_a_model_of_another_kind_is_not_guessed_at() -> None:
    assert Architecture.of({"model_type": "mamba", "hidden_size": 8}) is None


def test_the_first_reports_run_fits_and_takes_what_it_took() -> None:
    """402.4 s on an RTX 4090 with 24 GB: the time within 20 %."""
    spec = load_spec("B1", profile="first-report", overrides=["backend=unsloth"])
    first = fit_of(spec, LLAMA_1B, "rtx4090", tokens=263, longest=298)
    assert first.problems() == []
    assert first.seconds == pytest.approx(402.4, rel=0.2)
    assert first.seconds_range[0] < 402.4 < first.seconds_range[1]
    assert first.cost == pytest.approx(0.40 * first.seconds / 3600)
    assert first.largest_batch
    assert first.largest_batch.rows * first.largest_batch.accumulation == 64
    assert fit(LLAMA_1B, "rtx4090", "resources.gpus=2").seconds == pytest.approx(fit(LLAMA_1B, "rtx4090").seconds / 2)


@pytest.mark.parametrize("backend", ["unsloth", "peft"])
def test_the_defaults_are_faster_than_the_first_reports_and_fit_on_24_gb(backend: str) -> None:
    spec = load_spec("B1", profile="first-report", overrides=[f"backend={backend}"])
    first = fit_of(spec, LLAMA_1B, "rtx4090", tokens=263, longest=298)
    for gpu in ("rtx3090", "rtx4090", "a10g", "l4", "a5000"):
        assert fit(LLAMA_1B, gpu, f"backend={backend}").problems() == []
    assert fit(LLAMA_1B, "rtx4090", f"backend={backend}").seconds < 0.65 * first.seconds


def test_checkpointing_repeats_the_layers_and_not_the_output_matrix() -> None:
    """By PyTorch's counter of operations, on a model whose output matrix is most of it. PyTorch stops each layer before its
    last product, which nothing in the backward pass needs; Unsloth does not."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = {**LLAMA_1B, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 2000}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16}
    model = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="sdpa"))
    ids = torch.ones((1, 32), dtype=torch.long)

    def step() -> None:
        model(ids, labels=ids).loss.backward()

    once = counted(step)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    again = counted(step) - once
    sizes = architecture(config)
    last = sizes.layers * sizes.intermediate * sizes.hidden
    attention = 4 * sizes.layers * sizes.query * sum(range(1, 33))
    assert again == 2 * 32 * (sizes.linear_parameters - last) + attention


@pytest.mark.parametrize(("card_gib", "length"), [(8, 2972), (12, 21848), (16, 40724), (24, 78475), (40, 153977)])
def test_the_longest_context_that_unsloth_publishes_just_fits(card_gib: int, length: int) -> None:
    """https://docs.unsloth.ai/basics/unsloth-benchmarks: Llama 3.1 8B, 4-bit, rank 32, one row."""
    settings = ("backend=unsloth", "lora.rank=32", "model.load_in_4bit=true")
    planned = needed(LLAMA_8B, BatchShape(1, length), *settings)
    assert planned * 1e9 == pytest.approx(card_gib * GIB, rel=0.05)


@pytest.mark.parametrize(
    ("backend", "four_bit", "published"),
    [("peft", "false", 17), ("unsloth", "false", 16), ("peft", "true", 9), ("unsloth", "true", 7)],
)
def test_llama_factorys_comparison(backend: str, four_bit: str, published: float) -> None:
    """https://github.com/hiyouga/LLaMA-Factory/wiki/Performance-comparison: Llama 2 7B, rank 8, 4 x 1,024 tokens, an A100.

    The PEFT rows are those with flash attention, 16-bit; without it 18 GB. Whole gigabytes, so within 20 %.
    """
    settings = [f"backend={backend}", f"model.load_in_4bit={four_bit}", "lora.rank=8", "training.optimizer=adamw"]
    assert needed(LLAMA_2_7B, BatchShape(4, 1024), *settings) == pytest.approx(published, rel=0.2)


def test_fp32_is_planned_for_where_it_is_set() -> None:
    """Unquantized weights are then twice as wide."""
    settings = ("backend=peft",)
    wide, narrow = (fit(LLAMA_1B, "a100", *settings, f"training.precision={p}").training for p in ("fp32", "auto"))
    assert wide.weights == 2 * narrow.weights
    assert wide.total > narrow.total


def test_a_gpu_without_bf16_trains_in_fp32() -> None:
    """As the job does there: ``precision: auto`` takes bf16 where the machine has it."""
    settings = ("backend=peft",)
    old, new = (fit(LLAMA_1B, gpu, *settings).training.weights for gpu in ("v100-32gb", "a100"))
    assert old == 2 * new


def test_a_gpu_of_which_a_job_gets_a_part() -> None:
    assert find_gpu("NVIDIA H100:20").memory == find_gpu("h100:20GB").memory == 20_000_000_000
    assert find_gpu("h100:20").tflops == find_gpu("h100").tflops
    for wrong in ("h100:", "h100:much", "h100:0", "h100:-3"):
        with pytest.raises(UsageError, match="must be in GB, as in h100:20"):
            find_gpu(wrong)


def test_what_does_not_fit_says_so_and_what_to_set() -> None:
    tight = fit(LLAMA_1B, "l4", "backend=peft", "training.batch_size=64", longest=512)
    (problem,) = tight.problems()
    assert str(problem).startswith("memory: training needs about ")
    settings = problem.what.partition("it fits with ")[2].split(", ")
    assert settings[0].startswith("training.batch_size=")
    assert fit(LLAMA_1B, "l4", "backend=peft", *settings, longest=512).problems() == []


def test_a_model_too_large_for_its_evaluation_says_that_no_setting_helps() -> None:
    """Evaluation computes in fp32: 8 B parameters are 32 GB."""
    large = fit(LLAMA_8B, "rtx4090", "model.load_in_4bit=true", "training.gradient_checkpointing=true")
    (problem,) = large.problems()
    assert problem.what.startswith("evaluation needs about 3")
    assert problem.what.endswith(
        "the GeForce RTX 4090 has 25.4 GB; no setting makes it fit; use a smaller model or a larger GPU"
    )


def test_every_remedy_works() -> None:
    helped = 0
    for config in (LLAMA_1B, {**LLAMA_1B, "num_hidden_layers": 28, "hidden_size": 3072, "head_dim": 128}):
        for rows in (16, 64):
            for length in (298, 1024, 4096):
                base = [f"training.batch_size={rows}", "training.max_length=4096"]
                tight = fit(config, "a10g", *base, tokens=length - 8, longest=length)
                if tight.remedy:
                    settings = tight.remedy.partition("with ")[2].split(", ")
                    assert fit(config, "a10g", *base, *settings, tokens=length - 8, longest=length).problems() == []
                    helped += 1
    assert helped >= 4


def test_a_card_is_found_however_it_is_written() -> None:
    names = {"RTX 4090": "rtx4090", "NVIDIA GeForce RTX 3090": "rtx3090", "3090": "rtx3090", "nvidia-l4": "l4"}
    names |= {"A10G": "a10g", "RTX A5000": "a5000", "a100-80gb": "a100-80gb"}
    assert {name: find_gpu(name).key for name in names} == names
    with pytest.raises(UsageError, match=r"'rtx4099' is not a known GPU \(did you mean rtx4090\?\); known: t4, v100, "):
        find_gpu("rtx4099")
