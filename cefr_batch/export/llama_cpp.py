"""llama.cpp's own code, through llama-cpp-python: a GGUF file as its users run it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from numpy.typing import NDArray


class LlamaCpp:
    """A GGUF file, loaded. ``ask`` is its chat endpoint; the rest looks beneath it."""

    def __init__(self, path: Path, context: int, *, looks_beneath: bool = True) -> None:
        """``context``: tokens that a prompt and its answer may have together. Without ``looks_beneath`` there are no losses
        and logits, which take memory, and a GPU is used where llama.cpp is built for one. Raises ``ValueError`` for a file
        that llama.cpp does not load."""
        self._model: Any = llama_cpp.Llama(
            str(path),
            n_ctx=context,
            n_threads=_threads(),
            n_threads_batch=_threads(),
            n_gpu_layers=0 if looks_beneath else -1,
            logits_all=looks_beneath,
            verbose=False,
        )
        self._vocab = llama_cpp.llama_model_get_vocab(self._model.model)
        # As the library does by itself, except for templates that it has code of its own for: the file's is to be checked.
        self._model.chat_handler = self._formatter(ask=True).to_chat_handler()

    @property
    def program(self) -> str:
        """``llama.cpp (llama-cpp-python 0.3.36)``"""
        return f"llama.cpp (llama-cpp-python {llama_cpp.__version__})"

    def ask(self, request: str, max_new_tokens: int) -> str:
        """The most probable answer to a user's message."""
        messages = [{"role": "user", "content": request}]
        answer = self._model.create_chat_completion(
            messages, temperature=0.0, max_tokens=max_new_tokens, repeat_penalty=1.0
        )
        return str(answer["choices"][0]["message"]["content"])

    def stream(
        self, request: str, max_new_tokens: int, *, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
    ) -> Iterator[tuple[str, bool]]:
        """The answer so far to a user's message, token by token, and whether it has ended by itself. Tokens are drawn at
        random unless the temperature is 0."""
        chunks = self._model.create_chat_completion(
            [{"role": "user", "content": request}],
            stream=True,
            max_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            top_k=0,
            min_p=0.0,
            repeat_penalty=1.0,
        )
        text = ""
        for chunk in chunks:
            (choice,) = chunk["choices"]
            text += choice["delta"].get("content") or ""
            yield text, choice["finish_reason"] == "stop"

    @property
    def context(self) -> int:
        """The tokens that a prompt and its answer may have together."""
        return min(int(self._model.n_ctx()), int(llama_cpp.llama_model_n_ctx_train(self._model.model)))

    @cached_property
    def control(self) -> frozenset[str]:
        """The texts that it takes for tokens with a meaning of their own, such as where a turn ends."""
        every = range(llama_cpp.llama_vocab_n_tokens(self._vocab))
        return frozenset(self._text(token) for token in every if llama_cpp.llama_vocab_is_control(self._vocab, token))

    def tokens(self, request: str, answer: str | None = None) -> list[int]:
        """A conversation as the file's template and tokenizer make it: up to where the answer begins, or with an answer."""
        messages = [{"role": "user", "content": request}]
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        text = self._formatter(ask=answer is None)(messages=messages).prompt
        return list(self._model.tokenize(text.encode(), add_bos=False, special=True))

    def losses(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """The negative log-likelihoods of tokens 1, 2, … after those before them."""
        logits = self._logits(ids)[:-1]
        highest = logits.max(axis=1, keepdims=True)
        total = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
        found: NDArray[np.float64] = total - logits[np.arange(len(logits)), list(ids[1:])]
        return found

    def next_token_logits(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """The logit of every token of the vocabulary as the next one after these."""
        last: NDArray[np.float64] = self._logits(ids)[-1]
        return last

    def ends_with(self, token: int) -> bool:
        """Whether an answer is over when this token is written."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def _logits(self, ids: Sequence[int]) -> NDArray[np.float64]:
        self._model.reset()
        self._model.eval(list(ids))
        return np.asarray(self._model.scores[: len(ids)], dtype=np.float64)

    def _formatter(self, *, ask: bool) -> Any:
        begin, end = (self._text(token) for token in (self._model.token_bos(), self._model.token_eos()))
        template = self._model.metadata.get("tokenizer.chat_template", "")
        return Jinja2ChatFormatter(template, end, begin, ask, stop_token_ids=[self._model.token_eos()])

    def _text(self, token: int) -> str:
        return str(llama_cpp.llama_vocab_get_text(self._vocab, token).decode()) if token >= 0 else ""


def _threads() -> int:
    """As many as the machine lets this process have, or as ``OMP_NUM_THREADS`` says, as for other libraries."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(named) if named.isdecimal() and int(named) > 0 else there
