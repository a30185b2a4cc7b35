"""Losses that do not depend on how examples are batched, and beside them the loss as the seed computed it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy, linear

from cefr_batch.data import Example, prompt_of, text_of
from cefr_batch.data.examples import sentence_spans
from cefr_batch.memory import EVALUATION_LOGITS, FP32
from cefr_batch.numbers import perplexity

SEED_BATCH = 4  # the seed evaluated batches of 4 in file order

Forward = Callable[..., torch.Tensor]
Losses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # of hidden states or logits, and the tokens wanted


@dataclass(frozen=True)
class Encoded:
    """An example's tokens; those from ``response_start`` on (end-of-text included) are the response.

    ``trained`` says of each token whether the sentence that it belongs to is in the training data, word for word; None
    for a token of no sentence: the prompt, the numbers, line ends, end-of-text.
    """

    ids: list[int]
    response_start: int
    trained: list[bool | None]

    def parts(self) -> dict[str, list[int]]:
        """The tokens of each part by their index, from 1 on: nothing predicts the first one."""
        tokens = range(1, len(self.ids))
        return {
            "full": list(tokens),
            "response": [t for t in tokens if t >= self.response_start],
            "seen": [t for t in tokens if self.trained[t] is True],
            "unseen": [t for t in tokens if self.trained[t] is False],
        }


@dataclass(frozen=True)
class Score:
    """Mean negative log-likelihood a token in nats, over ``tokens`` predicted tokens."""

    loss: float
    tokens: int

    def as_json(self) -> dict[str, float | int]:
        return {"loss": self.loss, "perplexity": perplexity(self.loss), "tokens": self.tokens}


@dataclass(frozen=True)
class ExampleScore:
    """An example's summed negative log-likelihood in nats and its number of tokens, by part."""

    nll: dict[str, float]
    tokens: dict[str, int]


@dataclass(frozen=True)
class Evaluation:
    """``full``: over all tokens but the first; ``response``: over the response's; ``seen`` and ``unseen``: over those of
    sentences that are, and are not, in the training data; ``seed_protocol``: the seed's way.

    ``examples`` are in the order in which they were given.
    """

    full: Score
    response: Score
    seen: Score
    unseen: Score
    seed_protocol: float
    examples: list[ExampleScore]

    def as_json(self) -> dict[str, Any]:
        """The scores; null for a part that has no tokens."""
        seed = {"loss": self.seed_protocol, "perplexity": perplexity(self.seed_protocol)}
        scores = {"full": self.full, "response": self.response, "seen": self.seen, "unseen": self.unseen}
        return {k: score.as_json() if score.tokens else None for k, score in scores.items()} | {"seed_protocol": seed}


def encode(
    tokenizer: Any, examples: Sequence[Example], max_length: int, trained: Collection[str] = frozenset()
) -> list[Encoded]:
    """Tokenize ``prompt + output + end-of-text`` as one text, cut at ``max_length`` tokens.

    ``trained``: the sentences of the training data.
    """
    texts = [text_of(e, tokenizer.eos_token) for e in examples]
    batch = tokenizer(texts, truncation=True, max_length=max_length, return_offsets_mapping=True)
    encoded = []
    for example, ids, offsets in zip(examples, batch["input_ids"], batch["offset_mapping"], strict=True):
        prompt_end = len(prompt_of(example))
        start = next((i for i, (_, end) in enumerate(offsets) if end > prompt_end), len(ids))
        encoded.append(Encoded(list(ids), start, _trained(example, offsets, prompt_end, trained)))
    return encoded


def _trained(
    example: Example, offsets: Sequence[tuple[int, int]], prompt_end: int, trained: Collection[str]
) -> list[bool | None]:
    """A token belongs to the sentence whose characters it has, be it together with the blank or line end beside it."""
    of_token: list[bool | None] = [None] * len(offsets)
    spans = iter(sentence_spans(example))
    begin, end, known = 0, 0, False
    for t, (first, last) in enumerate(offsets):
        while first - prompt_end >= end and (span := next(spans, None)):
            begin, end = span
            known = example.output[begin:end] in trained
        if max(first - prompt_end, begin) < min(last - prompt_end, end):
            of_token[t] = known
    return of_token


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
    hidden, losses_of = _halves(model)
    nll: list[torch.Tensor] = [torch.empty(0)] * len(examples)
    done = 0
    for chosen in _batches_by_width(widths, batch_size):
        rows = [_padded(examples[i].ids, widths[i], pad_id) for i in chosen]
        inputs, spans = _laid_out(rows, [len(examples[i].ids) for i in chosen], pad_id, padding_side)
        losses = _losses(hidden, losses_of, {name: value.to(model.device) for name, value in inputs.items()}, spans)
        for i, of_row in zip(chosen, losses, strict=True):
            nll[i] = of_row
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


def _laid_out(
    rows: Sequence[Sequence[int]], lengths: Sequence[int], pad_id: int, padding_side: str
) -> tuple[dict[str, torch.Tensor], list[tuple[int, int]]]:
    """The model's inputs for rows of which the first ``lengths`` tokens are to be attended to, and where each row is."""
    width = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    positions = torch.zeros((len(rows), width), dtype=torch.long)
    spans = []
    for r, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        start = width - len(row) if padding_side == "left" else 0
        input_ids[r, start : start + len(row)] = torch.tensor(row)
        mask[r, start : start + length] = 1
        positions[r, start:] = torch.arange(width - start)
        spans.append((start, start + len(row)))
    return {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions}, spans


def _losses(
    hidden: Forward, losses: Losses, inputs: dict[str, torch.Tensor], spans: Sequence[tuple[int, int]]
) -> list[torch.Tensor]:
    """The negative log-likelihood of each row's tokens 1, 2, … (float64, on the CPU)."""
    with torch.inference_mode():
        states = hidden(**inputs, use_cache=False)
        targets = inputs["input_ids"].to(states.device)
        before = torch.cat([states[r, begin : end - 1] for r, (begin, end) in enumerate(spans)])
        wanted = torch.cat([targets[r, begin + 1 : end] for r, (begin, end) in enumerate(spans)])
        return list(losses(before, wanted).double().cpu().split([end - begin - 1 for begin, end in spans]))


def _halves(model: Any) -> tuple[Forward, Losses]:
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


def _summarize(examples: Sequence[Encoded], nll: Sequence[torch.Tensor]) -> Evaluation:
    scores = []
    for example, losses in zip(examples, nll, strict=True):
        parts = {name: [t - 1 for t in tokens] for name, tokens in example.parts().items()}
        scores.append(
            ExampleScore(
                {name: float(losses[at].sum()) for name, at in parts.items()},
                {name: len(at) for name, at in parts.items()},
            )
        )
    of = {part: _score(scores, part) for part in ("full", "response", "seen", "unseen")}
    return Evaluation(**of, seed_protocol=_seed_protocol(examples, nll), examples=scores)


def _score(scores: Sequence[ExampleScore], part: str) -> Score:
    tokens = sum(score.tokens[part] for score in scores)
    return Score(math.fsum(score.nll[part] for score in scores) / tokens if tokens else math.nan, tokens)


def _seed_protocol(examples: Sequence[Encoded], nll: Sequence[torch.Tensor]) -> float:
    """Each batch's mean over all its positions, padding included, weighted by the batch's real tokens."""
    total, weight = 0.0, 0
    for start in range(0, len(examples), SEED_BATCH):
        group = slice(start, start + SEED_BATCH)
        real = sum(len(e.ids) for e in examples[group])
        total += float(torch.cat(list(nll[group])).mean()) * real
        weight += real
    return total / weight
