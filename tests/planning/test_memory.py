"""Must show: the memory plan is within 15 % of the peak that torch measures, for 3 models x 2 ranks x 2 batch sizes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.prompts import alpaca

from cefr_batch.config.load import load_spec
from cefr_batch.data import Example
from cefr_batch.files import read_json
from cefr_batch.models.architecture import Architecture
from cefr_batch.planning.memory import BatchShape, TargetDevice, evaluation_memory, training_memory
from cefr_batch.records.layout import WorkDir

WITHIN = 0.15


@dataclass(frozen=True)
class Shape:
    """A Llama whose memory has another largest part than the others', and the settings to train it with."""

    sizes: dict[str, Any]
    settings: tuple[str, ...]


SHAPES = {
    "wide: the gated part": Shape(
        {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "tie_word_embeddings": True},
        ("training.precision=bf16", "lora.dropout=0.05"),
    ),
    "deep, no dropout, fp32: weights and attention": Shape(
        {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 10, "tie_word_embeddings": False},
        ("training.precision=fp32", "lora.dropout=0.0"),
    ),
    "gradient checkpointing, many words: logits": Shape(
        {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 6, "vocab_size": 4000},
        ("training.precision=bf16", "lora.dropout=0.05", "training.gradient_checkpointing=true"),
    ),
}


def make_model(tiny: Path, folder: Path, sizes: dict[str, Any]) -> Path:
    """The tiny model's tokenizer with a Llama of these sizes."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig.from_pretrained(tiny)
    config.update({"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": sizes["hidden_size"] // 4, **sizes})
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(tiny).save_pretrained(folder)
    return folder


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """After each training: the model's parameters and, on top of them, torch's peak while the trainer ran, in bytes."""
    from trl import SFTTrainer

    peaks: list[int] = []
    whole = SFTTrainer.train

    def train(trainer: Any, **arguments: Any) -> Any:
        result, peak = with_peak(trainer.model, lambda: whole(trainer, **arguments))
        peaks.append(peak)
        return result

    monkeypatch.setattr(SFTTrainer, "train", train)
    return peaks


def with_peak(model: Any, compute: Callable[[], Any]) -> tuple[Any, int]:
    """The result, and the most that the model's parameters and all that is allocated meanwhile take, in bytes."""
    import torch

    gc.collect()  # a graph of an earlier training, freed meanwhile, would count as less than nothing
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = compute()
    totals = sorted(allocations(profile.profiler.kineto_results.experimental_event_tree()))
    before = totals[0][1] - totals[0][2]
    return result, sum(storages.values()) + max(total for _, total, _ in totals) - before


def allocations(events: Any) -> Iterator[tuple[int, int, int]]:
    """(time, bytes allocated in all, bytes of this event) of every allocation and release under these events."""
    for event in events:
        if event.tag.name == "Allocation":
            yield event.start_time_ns, event.extra_fields.total_allocated, event.extra_fields.alloc_size
        yield from allocations(event.children)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_the_plan_is_what_torch_measures(shape: str, tiny_model: Path, tmp_path: Path, measured: list[int]) -> None:
    from cefr_batch.training.task import TrainingTask
    from cefr_batch.training.trainer import train

    folder = make_model(tiny_model, tmp_path / "model", SHAPES[shape].sizes)
    model = Architecture.of(read_json(folder / "config.json"))
    assert model
    examples = [Example("words", "", "cat " * (24 + 32 * (i % 2))) for i in range(32)]  # every batch is padded
    lines = []
    for rank in (8, 32):
        for rows in (4, 8):
            settings = [f"model.name={folder}", "backend=peft", *SHAPES[shape].settings, f"lora.rank={rank}"]
            settings += [
                f"training.batch_size={rows}",
                "training.gradient_accumulation_steps=2",
                "training.max_steps=2",
            ]
            spec = load_spec("B1", overrides=[*settings, "training.max_length=512"])
            work = WorkDir(tmp_path / f"run-{rank}-{rows}")
            work.tmp.mkdir(parents=True)
            train(TrainingTask(spec, folder, examples, examples[:4], work), None)
            machine = TargetDevice(cuda=False, bf16=spec.training.precision == "bf16")
            planned = training_memory(model, spec, BatchShape(rows, longest(folder, examples)), machine).total
            lines.append((rank, rows, planned / 1e6, measured[-1] / 1e6, planned / measured[-1] - 1))
    print(shape)
    for rank, rows, plan, real, off in lines:
        print(f"  rank {rank:2} batch {rows}: planned {plan:6.1f} MB, measured {real:6.1f} MB, {off:+.1%}")
    assert all(abs(off) <= WITHIN for *_, off in lines)


@pytest.mark.slow
@pytest.mark.parametrize("largest", ["words", "layer"])
def test_evaluations_plan_is_what_torch_measures(
    largest: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vocabulary whose logits would be 47 MB at once, in pieces of 4 MB; a layer that is wider than its vocabulary."""
    for module in ("planning.memory", "evaluation.losses"):
        monkeypatch.setattr(f"cefr_batch.{module}.EVALUATION_LOGITS", 4 << 20)
    from transformers import AutoTokenizer

    from cefr_batch.data.encoding import encode
    from cefr_batch.evaluation.losses import evaluate
    from cefr_batch.models.loading import load_for_evaluation

    sizes = {"words": {"vocab_size": 8000}, "layer": {"intermediate_size": 2000}}[largest]
    folder = make_model(tiny_model, tmp_path / "model", {"hidden_size": 128, "num_hidden_layers": 2, **sizes})
    model = Architecture.of(read_json(folder / "config.json"))
    assert model
    loaded = load_for_evaluation(folder)
    examples = [Example("words", "", "cat " * (40 + 50 * (i % 2))) for i in range(8)]
    encoded = encode(AutoTokenizer.from_pretrained(folder), alpaca(), examples, 512)
    _, peak = with_peak(loaded, lambda: evaluate(loaded, encoded, pad_id=1, end_id=0, batch_size=8))
    spec = load_spec("B1", overrides=["lora.rank=1"])  # this model has no adapter: one of rank 1 is next to nothing
    batch = BatchShape(8, longest(folder, examples))
    planned = evaluation_memory(model, spec, batch, TargetDevice(cuda=False, bf16=False))
    print(f"{largest}: planned {planned / 1e6:.1f} MB, measured {peak / 1e6:.1f} MB")
    assert planned == pytest.approx(peak, rel=WITHIN)


def longest(folder: Path, examples: list[Example]) -> int:
    from cefr_batch.data import TokenCounter

    return max(TokenCounter(folder / "tokenizer.json")(examples))
