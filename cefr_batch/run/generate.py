"""Sentences from a model: many prompts at once, the same text as one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, TopPLogitsWarper
from transformers.utils.logging import disable_progress_bar

from cefr_batch.errors import ModelError
from cefr_batch.run.model import load_for_evaluation, load_tokenizer


@dataclass(frozen=True)
class Sampling:
    """Draw each token from the most probable ones that together have ``top_p`` of the probability."""

    temperature: float
    top_p: float
    seed: int


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    sampling: Sampling | None = None,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """What the model writes after each prompt, until its end-of-text token or ``max_new_tokens``; greedily, or sampled.

    ``batch_size`` changes speed and memory; a batch that does not fit on the GPU is halved. In fp32 it changes the text
    only where two tokens are equally probable to about six digits. Sampled texts depend on the seed, the prompt's place
    in the list and the kind of device. ``on_batch(prompts done, of)`` is called after each batch.
    """
    encoded = [tokenizer(prompt).input_ids for prompt in prompts]
    texts = [""] * len(prompts)
    waiting = _batches(encoded, batch_size)
    while waiting:
        chosen = waiting.pop()
        try:
            written = _continue(model, tokenizer, {i: encoded[i] for i in chosen}, max_new_tokens, sampling)
        except torch.OutOfMemoryError:
            if len(chosen) == 1:
                raise
            middle = len(chosen) // 2
            waiting += [chosen[middle:], chosen[:middle]]
            continue
        for i, text in zip(chosen, written, strict=True):
            texts[i] = text
        on_batch(len(prompts) - sum(map(len, waiting)), len(prompts))
    return texts


def generate_from(folder: Path, prompt: str, max_new_tokens: int, sampling: Sampling | None) -> str:
    """What the model in a folder writes after a prompt. Loads it for this once. Raises ``ModelError`` if it does not fit on
    the GPU."""
    disable_progress_bar()
    try:
        model, tokenizer = load_for_evaluation(folder), load_tokenizer(folder)
        (text,) = generate(model, tokenizer, [prompt], max_new_tokens=max_new_tokens, batch_size=1, sampling=sampling)
    except torch.OutOfMemoryError as exc:
        remedy = "free some, or use the processor with CUDA_VISIBLE_DEVICES= before the command"
        raise ModelError(f"the GPU's memory does not suffice for {folder}; {remedy}") from exc
    return text


def _continue(
    model: Any, tokenizer: Any, prompts: dict[int, list[int]], max_new_tokens: int, sampling: Sampling | None
) -> list[str]:
    inputs = _left_padded(list(prompts.values()), tokenizer.pad_token_id)
    noise = [_Sampler(sampling, prompts, model.device)] if sampling else []
    with torch.inference_mode():
        output = model.generate(
            **{name: value.to(model.device) for name, value in inputs.items()},
            generation_config=_config(model, tokenizer, max_new_tokens),
            logits_processor=LogitsProcessorList(noise),
        )
    texts: list[str] = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def _batches(encoded: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Prompts of similar length together, longest last: there is little padding."""
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), i))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _left_padded(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, torch.Tensor]:
    width = max(len(row) for row in rows)
    ids = [[pad_id] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def _config(model: Any, tokenizer: Any, max_new_tokens: int) -> GenerationConfig:
    """Greedy search with nothing of the model's own settings but what it ends a text with."""
    own = getattr(model.generation_config, "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own] if own is not None else [])}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(ends),
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
