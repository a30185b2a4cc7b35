"""Losses that do not depend on how examples are batched, and beside them the loss as the seed computed it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy

from cefr_batch.data import Example, prompt_of, text_of
from cefr_batch.numbers import perplexity

SEED_BATCH = 4  # the seed evaluated batches of 4 in file order


@dataclass(frozen=True)
class Encoded:
    """An example's tokens; those from ``response_start`` on (end-of-text included) are the response."""

    ids: list[int]
    response_start: int


@dataclass(frozen=True)
class Score:
    """Mean negative log-likelihood a token in nats, over ``tokens`` predicted tokens."""

    loss: float
    tokens: int

    def as_json(self) -> dict[str, float | int]:
        return {"loss": self.loss, "perplexity": perplexity(self.loss), "tokens": self.tokens}


@dataclass(frozen=True)
class Evaluation:
    """``full``: over all tokens but the first; ``response``: over the response's; ``seed_protocol``: the seed's way."""

    full: Score
    response: Score
    seed_protocol: float

    def as_json(self) -> dict[str, Any]:
        seed = {"loss": self.seed_protocol, "perplexity": perplexity(self.seed_protocol)}
        return {"full": self.full.as_json(), "response": self.response.as_json(), "seed_protocol": seed}


def encode(tokenizer: Any, examples: Sequence[Example], max_length: int) -> list[Encoded]:
    """Tokenize ``prompt + output + end-of-text`` as one text, cut at ``max_length`` tokens."""
    texts = [text_of(e, tokenizer.eos_token) for e in examples]
    batch = tokenizer(texts, truncation=True, max_length=max_length, return_offsets_mapping=True)
    encoded = []
    for example, ids, offsets in zip(examples, batch["input_ids"], batch["offset_mapping"], strict=True):
        prompt_end = len(prompt_of(example))
        start = next((i for i, (_, end) in enumerate(offsets) if end > prompt_end), len(ids))
        encoded.append(Encoded(list(ids), start))
    return encoded


def evaluate(
    model: Any,
    examples: Sequence[Encoded],
    *,
    pad_id: int,
    batch_size: int,
    padding_side: Literal["right", "left"] = "right",
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Evaluate a causal model on examples, one forward pass each.

    ``batch_size`` and ``padding_side`` change speed and memory, not the result. The seed's protocol counts the padding of
    its batches as targets, so every example is laid out with the padding it had there, masked from attention; its
    positions count for ``seed_protocol`` alone. ``on_batch(examples done, of)`` is called after each batch.
    """
    widths = _seed_widths(examples)
    nll: list[torch.Tensor] = [torch.empty(0)] * len(examples)
    done = 0
    for chosen in _batches_by_width(widths, batch_size):
        rows = [_padded(examples[i].ids, widths[i], pad_id) for i in chosen]
        for i, losses in zip(chosen, _row_losses(model, rows, examples, chosen, pad_id, padding_side), strict=True):
            nll[i] = losses
        done += len(chosen)
        on_batch(done, len(examples))
    return _summarize(examples, nll)


def _seed_widths(examples: Sequence[Encoded]) -> list[int]:
    """Each example's padded length in the seed's batches: that of the longest in its group of four."""
    longest = [
        max(len(e.ids) for e in examples[start : start + SEED_BATCH]) for start in range(0, len(examples), SEED_BATCH)
    ]
    return [longest[i // SEED_BATCH] for i in range(len(examples))]


def _batches_by_width(widths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first: little padding, and too little memory shows at once."""
    order = sorted(range(len(widths)), key=lambda i: (-widths[i], i))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _padded(ids: list[int], width: int, pad_id: int) -> list[int]:
    return ids + [pad_id] * (width - len(ids))


def _row_losses(
    model: Any,
    rows: list[list[int]],
    examples: Sequence[Encoded],
    chosen: Sequence[int],
    pad_id: int,
    padding_side: str,
) -> list[torch.Tensor]:
    """The negative log-likelihood of each row's tokens 1, 2, … (float64, on the CPU)."""
    width = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    positions = torch.zeros((len(rows), width), dtype=torch.long)
    starts = [width - len(row) if padding_side == "left" else 0 for row in rows]
    for r, (row, start, i) in enumerate(zip(rows, starts, chosen, strict=True)):
        input_ids[r, start : start + len(row)] = torch.tensor(row)
        mask[r, start : start + len(examples[i].ids)] = 1
        positions[r, start:] = torch.arange(width - start)
    where = model.device
    with torch.inference_mode():
        logits = model(
            input_ids=input_ids.to(where),
            attention_mask=mask.to(where),
            position_ids=positions.to(where),
            use_cache=False,
        ).logits
        targets = input_ids.to(logits.device)
        spans = [(r, start, start + len(row)) for r, (row, start) in enumerate(zip(rows, starts, strict=True))]
        losses = [
            cross_entropy(logits[r, begin : end - 1].float(), targets[r, begin + 1 : end], reduction="none")
            for r, begin, end in spans
        ]
        return [row.double().cpu() for row in losses]


def _summarize(examples: Sequence[Encoded], nll: Sequence[torch.Tensor]) -> Evaluation:
    full = [losses[: len(e.ids) - 1] for e, losses in zip(examples, nll, strict=True)]
    response = [losses[max(e.response_start - 1, 0) :] for e, losses in zip(examples, full, strict=True)]
    return Evaluation(_score(full), _score(response), _seed_protocol(examples, nll))


def _score(parts: Sequence[torch.Tensor]) -> Score:
    tokens = sum(len(p) for p in parts)
    return Score(math.fsum(float(p.sum()) for p in parts) / tokens if tokens else math.nan, tokens)


def _seed_protocol(examples: Sequence[Encoded], nll: Sequence[torch.Tensor]) -> float:
    """Each batch's mean over all its positions, padding included, weighted by the batch's real tokens."""
    total, weight = 0.0, 0
    for start in range(0, len(examples), SEED_BATCH):
        group = slice(start, start + SEED_BATCH)
        real = sum(len(e.ids) for e in examples[group])
        total += float(torch.cat(list(nll[group])).mean()) * real
        weight += real
    return total / weight
