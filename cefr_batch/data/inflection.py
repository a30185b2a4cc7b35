"""Does a sentence use a word, or have a gap for it? A rough guess that lets inflected forms pass; for warnings only."""

from __future__ import annotations

import re
from functools import lru_cache

_IRREGULAR = {"be": {"am", "is", "are", "was", "were"}, "have": {"has", "had"}}
_TOKEN = re.compile(r"\w+")
_GAP = re.compile(r"__|\.{4}|---|\(\s*\)|(?:^|\s)(?:\.{3}|…)\s")  # as exercises print one


@lru_cache(maxsize=100_000)  # a dataset repeats its sentences
def uses_word(sentence: str, word: str) -> bool:
    """Whether each part of ``word`` is the stem of some word of the sentence, as far as spelling tells."""
    if f" {word}" in sentence and word.isascii():  # others may fall apart when their case is folded
        return True
    tokens = {token.casefold() for token in _TOKEN.findall(sentence)}
    parts = _TOKEN.findall(word.casefold())
    return all(part in tokens or any(_same_stem(token, part) for token in tokens) for part in parts)


def has_gap(sentence: str) -> bool:
    """Whether the sentence has a place that is to be filled in, as in ``I ____ to school``."""
    return _GAP.search(sentence) is not None


def _same_stem(token: str, word: str) -> bool:
    if token in _IRREGULAR.get(word, ()):
        return True
    stem = word[: max(3, len(word) - 2)] if len(word) > 3 else word
    return token.startswith(stem)
