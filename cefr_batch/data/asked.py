"""Words that somebody asks a trained model for, as typed."""

from __future__ import annotations

import re

MOST_WORDS = 100
TOKENS_PER_WORD = 40  # of the answer: twice what a sentence takes


def asked_words(text: str) -> list[str]:
    """The words in a text, separated by commas or line breaks; each with single spaces inside."""
    return [" ".join(word.split()) for word in re.split(r"[,\n]", text) if word.strip()]
