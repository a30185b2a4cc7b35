"""Does a sentence use a word? A rough guess that lets inflected forms pass; for warnings only."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\w+")


def uses_word(sentence: str, word: str) -> bool:
    """Whether each part of ``word`` is the stem of some word of the sentence, as far as spelling tells."""
    tokens = {token.casefold() for token in _TOKEN.findall(sentence)}
    return all(any(_same_stem(token, part) for token in tokens) for part in _TOKEN.findall(word.casefold()))


def _same_stem(token: str, word: str) -> bool:
    if token == word:
        return True
    stem = word[: max(3, len(word) - 2)] if len(word) > 3 else word
    return token.startswith(stem)
