"""Must show: training, evaluation and generation compute hardly more than the tokens that count need; what would is seen."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.flops import Least, counted
from support.job_runs import work_folder

from cefr_batch.config.load import load_spec
from cefr_batch.data import Example, TokenCounter, load_dataset, prompt_format
from cefr_batch.data.encoding import encode, encode_prompts
from cefr_batch.files import read_json
from cefr_batch.models.architecture import Architecture
from cefr_batch.training.task import TrainingTask
from cefr_batch.training.trainer import train

EXAMPLES = [
    Example("Ask for it", "", f"{n}. A cat sat on the mat by the door, and it was {n}. " * 9) for n in range(1, 9)
]
RANK, LENGTH = 4, 512


@pytest.fixture(scope="module")
def wide(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose products of weights are most of its work, as in models that are used."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide") / "model"
    config = LlamaConfig.from_pretrained(tiny_model)
    config.update({"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8, "head_dim": 64})
    config.update({"vocab_size": 2000})
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def least(folder: Path, rank: int = 0) -> Least:
    sizes = Architecture.of(read_json(folder / "config.json"))
    assert sizes
    return Least(sizes, rank)


def tokens_of(folder: Path) -> list[Any]:
    from cefr_batch.models.loading import load_tokenizer

    return encode(load_tokenizer(folder), prompt_format("alpaca", folder), EXAMPLES, LENGTH)


def step(folder: Path, work: Path, monkeypatch: pytest.MonkeyPatch, *settings: str, planted: Any = None) -> float:
    """What the trainer's first step computes, by what its examples need. ``planted``: done to the trainer before it."""
    from cefr_batch.training.head_loss import HeadLossTrainer

    found: list[int] = []
    whole = HeadLossTrainer.training_step

    def training_step(trainer: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        results: list[Any] = []
        planted_inputs = planted(trainer, model, inputs) if planted else lambda: inputs
        found.append(counted(lambda: results.append(whole(trainer, model, planted_inputs(), *rest))))
        return results[0]

    monkeypatch.setattr(HeadLossTrainer, "training_step", training_step)
    options = ["backend=peft", f"lora.rank={RANK}", "training.batch_size=8", "training.gradient_accumulation_steps=1"]
    options += ["training.max_steps=1", f"training.max_length={LENGTH}", "training.precision=fp32", *settings]
    spec = load_spec("B1", overrides=[f"model.name={folder}", *options])
    train(TrainingTask(spec, folder, EXAMPLES, EXAMPLES[:1], work_folder(work, spec)), None)
    needed = least(folder, RANK)
    on_response = spec.training.loss_on == "response"
    predicted = [len(e.ids) - (e.response_start if on_response else 1) for e in tokens_of(folder)]
    lengths = [len(e.ids) for e in tokens_of(folder)]
    assert len(set(lengths)) == 1, "no padding here"
    return found[0] / sum(needed.training(*one) for one in zip(lengths, predicted, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("loss_on", ["all", "response"])
def test_a_training_step(loss_on: str, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ratio = step(wide, tmp_path / "run", monkeypatch, f"training.loss_on={loss_on}")
    print(f"training, loss_on {loss_on}: {ratio:.4f}")
    assert 1 <= ratio <= 1.02


def another_forward(_trainer: Any, model: Any, inputs: Any) -> Callable[[], Any]:
    def both() -> Any:
        model(**inputs)
        return inputs

    return both


def padded_to_max_length(_trainer: Any, _model: Any, inputs: Any) -> Callable[[], Any]:
    from torch.nn.functional import pad

    more = LENGTH - inputs["input_ids"].shape[1]
    fillers = {"input_ids": 1, "labels": -100, "attention_mask": 0}
    return lambda: {name: pad(value, (0, more), value=fillers[name]) for name, value in inputs.items()}


def logits_twice(trainer: Any, _model: Any, inputs: Any) -> Callable[[], Any]:
    """The loss as TRL computes it."""
    from trl.trainer.sft_trainer import _patch_chunked_ce_lm_head

    causal = trainer.model.get_base_model()
    del causal.forward
    _patch_chunked_ce_lm_head(causal, chunk_size=256)
    return lambda: inputs


@pytest.mark.slow
@pytest.mark.parametrize("waste", [another_forward, padded_to_max_length, logits_twice])
def test_planted_waste_is_seen(waste: Any, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ratio = step(wide, tmp_path / "run", monkeypatch, planted=waste)
    print(f"{waste.__name__}: {ratio:.4f}")
    assert ratio > 1.08


def test_an_evaluation(wide: Path) -> None:
    """Beside the examples it computes two tokens twice, to see whether the model's head is all that makes its logits."""
    from cefr_batch.evaluation.losses import evaluate
    from cefr_batch.models.loading import load_for_evaluation

    model, encoded, needed = load_for_evaluation(wide), tokens_of(wide), least(wide)
    ratio = counted(lambda: evaluate(model, encoded, pad_id=1, end_id=0, batch_size=8)) / sum(
        needed.layers_forward(len(e.ids) - 1) + needed.head(len(e.ids) - 1) for e in encoded
    )
    print(f"evaluation: {ratio:.4f}")
    assert 1 <= ratio <= 1.02


def test_a_generation(wide: Path) -> None:
    from cefr_batch.evaluation.generation import generate
    from cefr_batch.models.loading import load_for_evaluation, load_tokenizer

    model, tokenizer, prompts = load_for_evaluation(wide), load_tokenizer(wide), prompt_format("alpaca", wide)
    model.get_output_embeddings().weight.data[tokenizer.eos_token_id] = 0  # no answer ends before its last token
    new, cut = 12, list[int]()
    done = counted(
        lambda: generate(
            model, tokenizer, prompts, EXAMPLES, max_new_tokens=new, batch_size=8, on_cut=lambda i: cut.append(i)
        )
    )
    assert len(cut) == len(EXAMPLES)
    asked = [len(ids) for ids in encode_prompts(tokenizer, prompts, EXAMPLES)]
    ratio = done / least(wide).generation(asked, new)
    print(f"generation: {ratio:.4f}")
    assert 1 <= ratio <= 1.02


def test_padding_is_a_small_share_of_what_training_reads(tiny_model: Path) -> None:
    """Batches of 16 at random, as the trainer draws them, of B1's starter corpus by the default settings."""
    spec = load_spec("B1")
    lengths = TokenCounter(tiny_model / "tokenizer.json")(load_dataset(spec.data, spec.level).train)
    random.Random(0).shuffle(lengths)
    batches = batched(lengths, spec.training.batch_size)
    ratio = sum(len(batch) * max(batch) for batch in batches) / sum(lengths)
    print(f"padding: {ratio:.4f}")
    assert ratio <= 1.08


def batched(lengths: list[int], size: int) -> list[list[int]]:
    return [lengths[i : i + size] for i in range(0, len(lengths), size)]
