"""Sentences from a model: many prompts at once, the same text as one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, TopPLogitsWarper
from transformers.generation import BaseStreamer
from transformers.utils.logging import disable_progress_bar
from typing_extensions import override

from cefr_batch.data import Example, PromptFormat
from cefr_batch.data.encoding import encode_prompts
from cefr_batch.errors import ModelError
from cefr_batch.models.loading import load_for_evaluation, load_tokenizer, stop_tokens


@dataclass(frozen=True)
class Sampling:
    """Draw each token from the most probable ones that together have ``top_p`` of the probability."""

    temperature: float
    top_p: float
    seed: int


def generate(
    model: Any,
    tokenizer: Any,
    prompts: PromptFormat,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    batch_size: int,
    sampling: Sampling | None = None,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
    on_cut: Callable[[int], None] = lambda example: None,
) -> list[str]:
    """What the model answers to each example, until it closes its response or has written ``max_new_tokens``; greedily, or
    sampled.

    ``batch_size`` changes speed and memory; a batch that does not fit on the GPU is halved. In fp32 it changes the text
    only where two tokens are equally probable to about six digits. Sampled texts depend on the seed, the example's place
    in the list and the kind of device. ``on_batch(examples done, of)`` is called after each batch, ``on_cut(example)`` for
    each answer that was not closed.
    """
    encoded = encode_prompts(tokenizer, prompts, examples)
    config = _config(model, tokenizer, prompts.answer.end, max_new_tokens)
    texts = [""] * len(examples)
    waiting = _batches(encoded, batch_size)
    while waiting:
        chosen = waiting.pop()
        try:
            written, ended = _continue(model, tokenizer, [(i, encoded[i]) for i in chosen], config, sampling)
        except torch.OutOfMemoryError:
            if len(chosen) == 1:
                raise
            middle = len(chosen) // 2
            waiting += [chosen[middle:], chosen[:middle]]
            continue
        for i, text, closed in zip(chosen, written, ended, strict=True):
            texts[i] = text
            if not closed:
                on_cut(i)
        on_batch(len(examples) - sum(map(len, waiting)), len(examples))
    return texts


def next_token_logits(model: Any, ids: Sequence[int]) -> list[float]:
    """The logit of every token of the vocabulary as the next one after these."""
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([ids], device=model.device), logits_to_keep=1).logits
    found: list[float] = logits[0, -1].float().tolist()
    return found


@dataclass(frozen=True)
class Text:
    """What a model has written so far of an answer; ``ended``: by itself, it writes no more."""

    text: str
    ended: bool


def stream(
    model: Any,
    tokenizer: Any,
    prompts: PromptFormat,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    sampling: Sampling | None,
    on_token: Callable[[list[Text]], None],
) -> None:
    """As ``generate``, in one batch, all of it told as it is written: ``on_token`` gets each answer so far after every
    token, and ends it all by raising.

    Sampled texts depend on the seed and the prompt alone, not on what else is in the batch.
    """
    encoded = encode_prompts(tokenizer, prompts, examples)
    config = _config(model, tokenizer, prompts.answer.end, max_new_tokens)
    streamer = _Streamer(tokenizer, set(config.eos_token_id), on_token)
    _continue(model, tokenizer, [(0, prompt) for prompt in encoded], config, sampling, streamer=streamer)


class _Streamer(BaseStreamer):  # type: ignore[misc]  # transformers is not typed here
    """Decodes each row from its beginning whenever it gains a token: a character may be made of several."""

    def __init__(self, tokenizer: Any, stop: set[int], on_token: Callable[[list[Text]], None]) -> None:
        self._tokenizer, self._stop, self._on_token = tokenizer, stop, on_token
        self._rows: list[list[int]] | None = None
        self._ended: list[bool] = []

    @override
    def put(self, value: torch.Tensor) -> None:
        if self._rows is None:  # the prompts come first
            self._rows, self._ended = [[] for _ in value], [False] * len(value)
            return
        for i, token in enumerate(value.tolist()):
            if not self._ended[i]:
                self._rows[i].append(token)
                self._ended[i] = token in self._stop
        texts = self._tokenizer.batch_decode(self._rows, skip_special_tokens=True)
        self._on_token([Text(text, ended) for text, ended in zip(texts, self._ended, strict=True)])

    @override
    def end(self) -> None:
        """Everything has been told."""


def too_long(
    model: Any, tokenizer: Any, prompts: PromptFormat, examples: Sequence[Example], max_new_tokens: int
) -> str:
    """Why the model cannot read these prompts and write their answers, in words; empty if it can."""
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, encode_prompts(tokenizer, prompts, examples)), default=0)
    if limit is None or longest + max_new_tokens <= limit:
        return ""
    return (
        f"a prompt of {longest:,} tokens and generation.max_new_tokens ({max_new_tokens:,}) are more than the {limit:,} "
        "tokens that the model can read"
    )


def generate_from(
    folder: Path, prompts: PromptFormat, example: Example, max_new_tokens: int, sampling: Sampling | None
) -> Text:
    """What the model in a folder answers to an example. Loads it for this once. Raises ``ModelError`` if it does not fit on
    the GPU."""
    disable_progress_bar()
    cut: list[int] = []
    try:
        model, tokenizer = load_for_evaluation(folder), load_tokenizer(folder)
        (text,) = generate(
            model,
            tokenizer,
            prompts,
            [example],
            max_new_tokens=max_new_tokens,
            batch_size=1,
            sampling=sampling,
            on_cut=cut.append,
        )
    except torch.OutOfMemoryError as exc:
        raise ModelError(
            f"not enough GPU memory to run the model in {folder}; free some (nvidia-smi shows what uses it), or run on the "
            "CPU: CUDA_VISIBLE_DEVICES='' cefr-batch generate …"
        ) from exc
    return Text(text, ended=not cut)


def _continue(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[tuple[int, list[int]]],
    config: GenerationConfig,
    sampling: Sampling | None,
    streamer: _Streamer | None = None,
) -> tuple[list[str], list[bool]]:
    """The answers to prompts, each with a number from which its random numbers come, and whether each was closed."""
    inputs = _left_padded([prompt for _, prompt in prompts], tokenizer.pad_token_id)
    noise = [_Sampler(sampling, [number for number, _ in prompts], model.device)] if sampling else []
    with torch.inference_mode():
        output = model.generate(
            **{name: value.to(model.device) for name, value in inputs.items()},
            generation_config=config,
            logits_processor=LogitsProcessorList(noise),
            streamer=streamer,
        )
    answers = output[:, inputs["input_ids"].shape[1] :]
    ended = torch.isin(answers, torch.tensor(config.eos_token_id, device=answers.device)).any(dim=1)
    texts: list[str] = tokenizer.batch_decode(answers, skip_special_tokens=True)
    return texts, ended.tolist()


def _batches(encoded: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Prompts of similar length together, longest last: there is little padding."""
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), i))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _left_padded(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, torch.Tensor]:
    width = max(len(row) for row in rows)
    ids = [[pad_id] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def _config(model: Any, tokenizer: Any, end: str, max_new_tokens: int) -> GenerationConfig:
    """Greedy search with nothing of the model's own settings but what it ends a text with."""
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=stop_tokens(model.generation_config, tokenizer, end),
        pad_token_id=tokenizer.pad_token_id,
        repetition_penalty=1.0,
        use_cache=True,
    )


class _Sampler(LogitsProcessor):  # type: ignore[misc]  # transformers is not typed here
    """Makes greedy search draw: the largest of the scores plus Gumbel noise is a sample of their softmax (Gumbel 1954).

    Each prompt has random numbers of its own, so that its text does not depend on what it shares a batch with.
    """

    def __init__(self, sampling: Sampling, prompts: Iterable[int], device: torch.device) -> None:
        self._temperature = sampling.temperature
        self._top_p = TopPLogitsWarper(sampling.top_p)
        self._random = [torch.Generator(device).manual_seed(_own_seed(sampling.seed, i)) for i in prompts]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        kept: torch.Tensor = self._top_p(input_ids, scores.float() / self._temperature)
        for row, random in zip(kept, self._random, strict=True):
            row -= torch.empty_like(row).exponential_(generator=random).log()
        return kept


def _own_seed(seed: int, prompt: int) -> int:
    """32 bits, which is all that torch's generator on the CPU takes of a seed."""
    return int.from_bytes(hashlib.sha256(f"{seed} {prompt}".encode()).digest()[:4], "big")
