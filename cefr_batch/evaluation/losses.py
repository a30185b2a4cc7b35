"""Losses that do not depend on how examples are batched, and beside them the loss as the first report computed it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy, linear

from cefr_batch.data.encoding import Encoded
from cefr_batch.errors import DataError, Problem
from cefr_batch.planning.memory import EVALUATION_LOGITS, FP32
from cefr_batch.records.figures import perplexity
from cefr_batch.records.losses import ExampleScore, Loss, Losses, PartCounts, PartSums, SentenceScore, TokenLoss

FIRST_REPORT_BATCH = 4  # the first report evaluated batches of 4 in file order

Forward = Callable[..., torch.Tensor]
# Of hidden states or logits, and the tokens wanted: the negative log-likelihood of each token.
TokenLosses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Evaluation:
    """A model's losses over all examples, and what they are made of by example, in the order of the examples."""

    losses: Losses
    examples: list[ExampleScore]


def evaluate(
    model: Any,
    examples: Sequence[Encoded],
    *,
    pad_id: int,
    end_id: int,
    batch_size: int,
    padding_side: Literal["right", "left"] = "right",
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Evaluate a causal model on examples, one forward pass each.

    ``batch_size`` and ``padding_side`` change speed and memory, not the result. ``end_id``: the token that ends an example
    that was not cut. It is a target, but no input: so the same pass gives the first report's loss, whose texts ended without
    it and whose batches' padding counted as targets. Every example is laid out with the padding it had there, masked from
    attention; these targets count for ``seed_protocol`` alone. ``on_batch(examples done, of)`` is called after each batch.

    Raises ``DataError`` if no example has a token of its response left, ``torch.OutOfMemoryError``.
    """
    rows = _as_in_the_first_report(examples, end_id)
    hidden, losses_of = _halves(model)
    scored: dict[int, _RowLosses] = {}
    done = 0
    for chosen in _batches_by_width([row.width for row in rows], batch_size):
        batch = _laid_out([rows[i] for i in chosen], pad_id, padding_side)
        scored |= zip(chosen, _losses(hidden, losses_of, batch, model.device), strict=True)
        done += len(chosen)
        on_batch(done, len(examples))
    return _summarize(examples, rows, [scored[i] for i in range(len(examples))])


@dataclass(frozen=True)
class _PaddedRow:
    """An example as the first report's script laid it out: without end-of-text, padded to ``width`` tokens."""

    inputs: list[int]
    targets: list[int]  # the example's tokens 1, 2, … with end-of-text
    width: int


@dataclass(frozen=True)
class _RowLosses:
    """Negative log-likelihoods (float64, on the CPU) of a row's targets, and of its padding as a target."""

    targets: torch.Tensor
    padding: torch.Tensor


def _as_in_the_first_report(examples: Sequence[Encoded], end_id: int) -> list[_PaddedRow]:
    """Each padded to the longest in its group of four."""
    inputs = [e.ids[:-1] if e.ids[-1] == end_id else e.ids for e in examples]
    starts = range(0, len(inputs), FIRST_REPORT_BATCH)
    longest = [max(map(len, inputs[start : start + FIRST_REPORT_BATCH])) for start in starts]
    return [
        _PaddedRow(ids, example.ids[1:], longest[i // FIRST_REPORT_BATCH])
        for i, (ids, example) in enumerate(zip(inputs, examples, strict=True))
    ]


def _batches_by_width(widths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first: little padding, and too little memory shows at once."""
    order = sorted(range(len(widths)), key=lambda i: (-widths[i], i))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


@dataclass(frozen=True)
class _Batch:
    """Rows of one forward pass. ``places``: of every wanted prediction the row and the position that predicts it;
    ``wanted``: the predicted tokens; ``counts``: how many of them are a row's targets and its padding, in turn."""

    inputs: dict[str, torch.Tensor]
    places: tuple[torch.Tensor, torch.Tensor]
    wanted: torch.Tensor
    counts: list[int]


def _laid_out(rows: Sequence[_PaddedRow], pad_id: int, padding_side: str) -> _Batch:
    width = max(row.width for row in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    positions = torch.zeros((len(rows), width), dtype=torch.long)
    places: list[tuple[int, int]] = []
    wanted, counts = [], []
    for r, row in enumerate(rows):
        start = width - row.width if padding_side == "left" else 0
        end = start + len(row.inputs)
        input_ids[r, start:end] = torch.tensor(row.inputs)
        mask[r, start:end] = 1
        positions[r, start:] = torch.arange(width - start)
        padding = row.width - len(row.inputs)
        predicting = [*range(start, start + len(row.targets)), *range(end - 1, end - 1 + padding)]
        places += [(r, at) for at in predicting]
        wanted += [*row.targets, *[pad_id] * padding]
        counts += [len(row.targets), padding]
    inputs = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions}
    of_rows, of_positions = torch.tensor(places).T
    return _Batch(inputs, (of_rows, of_positions), torch.tensor(wanted), counts)


def _losses(hidden: Forward, losses: TokenLosses, batch: _Batch, device: torch.device) -> list[_RowLosses]:
    with torch.inference_mode():
        states = hidden(**{name: value.to(device) for name, value in batch.inputs.items()}, use_cache=False)
        rows, positions = (index.to(states.device) for index in batch.places)
        found = losses(states[rows, positions], batch.wanted.to(states.device)).double().cpu().split(batch.counts)
    return [_RowLosses(targets, padding) for targets, padding in zip(found[::2], found[1::2], strict=True)]


def _halves(model: Any) -> tuple[Forward, TokenLosses]:
    """A causal model as two functions: its last hidden states, and the losses of tokens predicted from these.

    A model that does more with its logits than its head (some scale or cap them) stays whole.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder, head = causal.base_model, causal.get_output_embeddings()

    def hidden(**inputs: Any) -> torch.Tensor:
        states: torch.Tensor = decoder(**inputs).last_hidden_state
        return states

    def whole(**inputs: Any) -> torch.Tensor:
        logits: torch.Tensor = model(**inputs).logits
        return logits

    probe = torch.arange(2, device=model.device).unsqueeze(0)
    with torch.inference_mode():
        plain = linear(hidden(input_ids=probe), head.weight)
        same = torch.allclose(plain, whole(input_ids=probe), rtol=1e-3, atol=1e-3)
    if same:
        return hidden, partial(_linear_losses, head.weight)
    return whole, _losses_of_logits


def _losses_of_logits(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Cross-entropy for some tokens at a time. ``logits``: tokens x words."""
    rows = max(EVALUATION_LOGITS // (FP32 * logits.shape[-1]), 1)
    pieces = zip(logits.split(rows), wanted.split(rows), strict=True)
    return torch.cat([cross_entropy(piece.float(), targets, reduction="none") for piece, targets in pieces])


def _linear_losses(weight: torch.Tensor, hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of ``linear(hidden, weight)``, whose columns exist for some words of the vocabulary at a time: logits of
    8 x 300 tokens over 128,256 words would be 1.2 GB. ``weight``: words x width; ``hidden``: tokens x width."""
    words = max(EVALUATION_LOGITS // (FP32 * len(hidden)), 1)
    total = torch.full((len(hidden),), -math.inf, device=hidden.device)
    for piece in weight.split(words):
        logits = linear(hidden, piece).float()
        first = cross_entropy(logits, torch.zeros_like(wanted), reduction="none")
        of_piece = first + logits[:, 0]  # logits.logsumexp(-1), without its four passes
        total = torch.logaddexp(total, of_piece)
    return total - (hidden * weight[wanted]).float().sum(-1)


def _summarize(examples: Sequence[Encoded], rows: Sequence[_PaddedRow], scored: Sequence[_RowLosses]) -> Evaluation:
    """Raises ``DataError`` if no example has a token of its response left."""
    scores = [_score(example, losses.targets) for example, losses in zip(examples, scored, strict=True)]
    full, response = _mean(scores, "full"), _mean(scores, "response")
    if full is None or response is None:
        text = "no evaluation example has a response within training.max_length tokens; raise training.max_length"
        raise DataError([Problem("evaluation", text)])
    first_report = _first_report_loss(rows, scored)
    losses = Losses(
        full=full,
        response=response,
        seen=_mean(scores, "seen"),
        unseen=_mean(scores, "unseen"),
        seed_protocol=Loss(loss=first_report, perplexity=perplexity(first_report)),
    )
    return Evaluation(losses, scores)


def _score(example: Encoded, losses: torch.Tensor) -> ExampleScore:
    """``losses``: of the example's tokens 1, 2, …"""
    parts = {name: [t - 1 for t in tokens] for name, tokens in example.parts().items()}
    sentences = {number: [t - 1 for t in tokens] for number, tokens in example.by_sentence().items()}
    return ExampleScore(
        nll=PartSums(**{name: float(losses[at].sum()) for name, at in parts.items()}),
        tokens=PartCounts(**{name: len(at) for name, at in parts.items()}),
        sentences=[
            SentenceScore(number=number, nll=float(losses[at].sum()), tokens=len(at))
            for number, at in sentences.items()
        ],
    )


def _mean(scores: Sequence[ExampleScore], part: str) -> TokenLoss | None:
    """None for a part without tokens."""
    tokens = sum(getattr(score.tokens, part) for score in scores)
    return TokenLoss.of(math.fsum(getattr(score.nll, part) for score in scores) / tokens, tokens) if tokens else None


def _first_report_loss(rows: Sequence[_PaddedRow], scored: Sequence[_RowLosses]) -> float:
    """Each batch's mean over all its positions, padding included, weighted by the batch's real tokens; without end-of-text,
    which its texts did not have."""
    total, weight = 0.0, 0
    for start in range(0, len(rows), FIRST_REPORT_BATCH):
        group = range(start, min(start + FIRST_REPORT_BATCH, len(rows)))
        real = sum(len(rows[i].inputs) for i in group)
        counted = [torch.cat([scored[i].targets[: len(rows[i].inputs) - 1], scored[i].padding]) for i in group]
        total += float(torch.cat(counted).mean()) * real
        weight += real
    return total / weight
