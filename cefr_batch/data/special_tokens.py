"""The special tokens of a tokenizer, from its files alone: ``tokenizer.json`` and ``tokenizer_config.json``."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from cefr_batch.errors import ModelError

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_REMEDY = "set it there, or choose another model"


@dataclass(frozen=True)
class SpecialTokens:
    """Texts that a tokenizer takes as one token each, wherever they stand.

    ``named``: by their role, as in ``{"eos_token": "</s>"}``, which always has ``eos_token``; ``control``: those that mean
    something to the model, such as where a turn ends; ``added``: these and others that are not in the vocabulary's own text.
    """

    named: Mapping[str, str]
    control: frozenset[str]
    added: frozenset[str]

    @classmethod
    def read(cls, folder: Path) -> SpecialTokens:
        """Raises ``ModelError`` where there is no end-of-text token."""
        named = _named(folder / CONFIG)
        added = list(_added(folder / TOKENIZER))
        control = frozenset([*named.values(), *(text for text, special in added if special)])
        return cls(named, control, control.union(text for text, _ in added))

    @property
    def end_of_text(self) -> str:
        """What closes a text."""
        return self.named["eos_token"]

    def first_of(self, text: str) -> str | None:
        """The special token that a text begins with."""
        return max((token for token in self.added if text.startswith(token)), key=len, default=None)

    def in_text(self, text: str) -> str | None:
        """The first control token that stands in a text, which a tokenizer would take for one."""
        found = self._control.search(text)
        return found[0] if found else None

    @cached_property
    def _control(self) -> re.Pattern[str]:
        return any_of(self.control)


def any_of(texts: Collection[str]) -> re.Pattern[str]:
    """A pattern that finds any of these texts, the longest where several begin at one place."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))))


def read_config(path: Path) -> dict[str, Any]:
    """A tokenizer_config.json. Raises ``ModelError`` if it cannot be read as an object."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise ModelError(f"{path} cannot be read, and with it eos_token, the end-of-text token: {exc}") from exc
    if not isinstance(config, dict):
        raise ModelError(f"{path} does not set eos_token, the end-of-text token; {_REMEDY}")
    return config


def _named(path: Path) -> dict[str, str]:
    config = read_config(path)
    found = {role: text for role in _ROLES if (text := _text(config.get(role)))}
    if "eos_token" in found:
        return found
    if "eos_token" not in config:
        raise ModelError(f"{path} does not set eos_token, the end-of-text token; {_REMEDY}")
    wrong = config["eos_token"]
    raise ModelError(f"{path}: eos_token must be the text of the end-of-text token, but is {wrong!r}; {_REMEDY}")


def _text(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _added(path: Path) -> Iterator[tuple[str, bool]]:
    """The text of each token that stands beside the vocabulary, and whether it is a control token."""
    try:
        tokens = from_json(path.read_bytes())["added_tokens"]
        for token in tokens:
            if token["content"]:
                yield token["content"], bool(token["special"])
    except (OSError, ValueError, LookupError, TypeError) as exc:
        raise ModelError(
            f"{path} is not a tokenizer that can be read ({type(exc).__name__}: {exc}); copy the model's folder "
            "again, or choose another model"
        ) from exc
