"""Must show: losses do not depend on batching, and equal independent computations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cefr_batch.data import Example, prompt_of, text_of
from cefr_batch.data.pairs import read_pairs
from cefr_batch.levels import Level
from cefr_batch.run.evaluate import Encoded, encode, evaluate
from cefr_batch.run.model import load_for_evaluation, load_tokenizer


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return load_for_evaluation(tiny_model)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Eleven examples of different lengths: the last group of four is not full."""
    pairs = read_pairs("starter", Level.B2)
    groups = [pairs[i * 7 : i * 7 + 1 + i % 5] for i in range(11)]
    return [
        Example(
            instruction="Write:\n" + "\n".join(f"{n}. {p.word}" for n, p in enumerate(group, 1)),
            input="",
            output="\n".join(f"{n}. {p.sentence}" for n, p in enumerate(group, 1)),
        )
        for group in groups
    ]


@pytest.fixture(scope="module")
def encoded(tokenizer: Any, examples: list[Example]) -> list[Encoded]:
    return encode(tokenizer, examples, max_length=512)


def token_by_token(model: Any, ids: list[int]) -> list[float]:
    """Each token's negative log-likelihood, one growing prefix at a time: no batch, no padding, no shared code."""
    losses = []
    for t in range(1, len(ids)):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids[:t]])).logits[0, -1].double()
        losses.append(float(torch.logsumexp(logits, 0) - logits[ids[t]]))
    return losses


def test_batch_size_and_padding_side_do_not_change_the_loss(model: Any, encoded: list[Encoded]) -> None:
    results = [
        evaluate(model, encoded, pad_id=1, batch_size=size, padding_side=side)
        for size in (1, 4, 16)
        for side in ("right", "left")
    ]
    for name in ("full", "response"):
        losses = [getattr(r, name).loss for r in results]
        assert max(losses) - min(losses) < 1e-5
        assert len({getattr(r, name).tokens for r in results}) == 1
    seed = [r.seed_protocol for r in results]
    assert max(seed) - min(seed) < 1e-5


def test_full_and_response_equal_a_token_by_token_computation(
    model: Any, tokenizer: Any, examples: list[Example], encoded: list[Encoded]
) -> None:
    full: list[float] = []
    response: list[float] = []
    for example in examples:
        ids = tokenizer(text_of(example, tokenizer.eos_token)).input_ids
        prompt_tokens = len(tokenizer(prompt_of(example)).input_ids)
        losses = token_by_token(model, ids)
        full += losses
        response += losses[prompt_tokens - 1 :]
    result = evaluate(model, encoded, pad_id=1, batch_size=4)
    assert result.full.tokens == len(full)
    assert result.response.tokens == len(response)
    assert result.full.loss == pytest.approx(math.fsum(full) / len(full), abs=1e-5)
    assert result.response.loss == pytest.approx(math.fsum(response) / len(response), abs=1e-5)
    assert result.as_json()["full"]["perplexity"] == pytest.approx(math.exp(result.full.loss))


def test_seed_protocol_equals_a_straightforward_reimplementation(
    model: Any, tokenizer: Any, examples: list[Example], encoded: list[Encoded]
) -> None:
    """Batches of 4 in file order, padded on the right, labels = input ids, so that padding counts in each batch's mean;
    batches weighted by their real tokens."""
    texts = [text_of(e, tokenizer.eos_token) for e in examples]
    total = tokens = 0.0
    for start in range(0, len(texts), 4):
        batch = tokenizer(texts[start : start + 4], padding=True, padding_side="right", return_tensors="pt")
        with torch.inference_mode():
            loss = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.input_ids).loss
        real = int(batch.attention_mask.sum())
        total += float(loss) * real
        tokens += real
    result = evaluate(model, encoded, pad_id=tokenizer.pad_token_id, batch_size=16)
    assert result.seed_protocol == pytest.approx(total / tokens, abs=1e-5)
    assert abs(result.seed_protocol - result.full.loss) > 1e-3, "the two should differ where there is padding"


def test_truncation_cuts_the_end_and_the_response_may_be_gone(tokenizer: Any, examples: list[Example]) -> None:
    whole = encode(tokenizer, examples[4:5], max_length=512)[0]
    cut = encode(tokenizer, examples[4:5], max_length=8)[0]
    assert cut.ids == whole.ids[:8]
    assert cut.response_start == 8 < whole.response_start


def test_end_of_text_is_a_target_of_the_response(tokenizer: Any, examples: list[Example]) -> None:
    encoded = encode(tokenizer, examples[:1], max_length=512)[0]
    assert encoded.ids[-1] == tokenizer.eos_token_id
    assert encoded.response_start < len(encoded.ids)
