"""Near sentences by their definition in docs/metrics.md, written down once more; no library, nothing of the project."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def compared(sentence: str) -> str:
    """Letters, digits and marks, case-folded, without apostrophes; single blanks for all else."""
    kept = []
    for character in unicodedata.normalize("NFC", sentence).casefold():
        if character not in "'’":
            kept.append(character if character.isalnum() else " ")
    return " ".join("".join(kept).split())


def edits(one: str, other: str) -> int:
    """Levenshtein distance by its recurrence."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        left = [i]
        for j, b in enumerate(other, 1):
            left.append(min(row[j] + 1, left[-1] + 1, row[j - 1] + (a != b)))
        row = left
    return row[-1]


def near(one: str, other: str) -> bool:
    """At most one edit for ten characters of the longer one."""
    a, b = compared(one), compared(other)
    longer = max(len(a), len(b))
    return bool(a and b) and 10 * abs(len(a) - len(b)) <= longer and 10 * edits(a, b) <= longer


def near_any(sentence: str, others: Iterable[str]) -> bool:
    """Whether a sentence is one of the others, or near one."""
    return any(sentence == other or near(sentence, other) for other in others)
