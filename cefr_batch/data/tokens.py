"""Counting tokens as transformers would, with the tokenizers library alone: it loads in a moment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cefr_batch.data.examples import Example, text_of
from cefr_batch.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BATCH = 1000


class TokenCounter:
    """A tokenizer.json with the tokenizer_config.json beside it. ``eos`` is the end-of-text token's text."""

    def __init__(self, tokenizer_json: Path) -> None:
        """Raises ``ModelError`` where the files are not a usable tokenizer."""
        self._tokenizer = _load(tokenizer_json)
        self.eos = _eos(tokenizer_json.with_name("tokenizer_config.json"))

    def texts(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text, with those that the tokenizer adds at its ends."""
        return [
            len(encoding.ids)
            for start in range(0, len(texts), _BATCH)
            for encoding in self._tokenizer.encode_batch_fast(list(texts[start : start + _BATCH]))
        ]

    def __call__(self, examples: Sequence[Example]) -> list[int]:
        """The tokens of each example's whole text: what the trainer sees before it cuts."""
        return self.texts([text_of(example, self.eos) for example in examples])


def _load(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as exc:  # the library raises nothing narrower
        raise ModelError(f"{path} is not a tokenizer that can be read: {exc}") from exc
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _eos(path: Path) -> str:
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
        token = config["eos_token"]
        eos = token["content"] if isinstance(token, dict) else token
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ModelError(f"{path} does not say eos_token, the end-of-text token; the model needs one") from exc
    if not isinstance(eos, str) or not eos:
        raise ModelError(f"{path}: eos_token must be the end-of-text token's text, but is {eos!r}")
    return eos
