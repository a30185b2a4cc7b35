"""Sentences that are nearly the same: one definition for leakage, copies and splits, and an exact search in large data.

Two sentences are near each other if their comparable texts (Unicode NFC, without case and punctuation, single blanks)
differ by at most one edit for each ten characters of the longer one; an edit is a character inserted, left out or
replaced (Levenshtein 1966). So sentences shorter than ten characters have to be the same. docs/metrics.md says why one
in ten.

The search compares a sentence only with those that share a piece of text with it at about the same place: of two texts
at most ``k`` edits apart, at least one of ``k + 1`` pieces of the one stands unchanged in the other. It misses none.
G. Li, D. Deng, J. Wang, J. Feng: Pass-Join: A Partition-based Method for Similarity Joins, PVLDB 5(3), 2011.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise

from rapidfuzz.distance import Levenshtein

CHARACTERS_PER_EDIT = 10

_APOSTROPHE = re.compile("['’]")
_NOT_COMPARED = re.compile(r"[\W_]+")


def comparable(sentence: str) -> str:
    """What is compared of a sentence: its letters and digits, case-folded, with single blanks between the words."""
    text = _APOSTROPHE.sub("", unicodedata.normalize("NFC", sentence).casefold())
    return _NOT_COMPARED.sub(" ", text).strip()


def is_near(one: str, other: str) -> bool:
    """Whether two sentences are nearly, or exactly, the same; never those without a letter or digit."""
    texts = comparable(one), comparable(other)
    return all(texts) and _are_near(*texts)


def groups(sentences: Iterable[str]) -> dict[str, str]:
    """Each sentence → the first sentence of its group.

    Sentences of different groups are not near each other; those of one are, or are linked by others of the group.
    """
    known = NearDuplicates()
    first: dict[str, str] = {}  # a sentence → an earlier one of its group; the first one → itself

    def root(sentence: str) -> str:
        while first[sentence] != sentence:
            first[sentence] = sentence = first[first[sentence]]
        return sentence

    order = {sentence: number for number, sentence in enumerate(dict.fromkeys(sentences))}
    for sentence in order:
        first[sentence] = sentence
        for other in list(known.near(sentence)):
            early, late = sorted((root(sentence), root(other)), key=order.__getitem__)
            first[late] = early
        known.add(sentence)
    return {sentence: root(sentence) for sentence in order}


class NearDuplicates:
    """Sentences, to be asked for those near a given one. Of sentences with one comparable text, the first stands for all."""

    def __init__(self, sentences: Iterable[str] = ()) -> None:
        self._sentences: dict[str, str] = {}  # by comparable text
        self._pieces: dict[tuple[int, int, str], list[str]] = {}  # by a text's length, a piece's place, and the piece
        self._lengths: set[int] = set()
        for sentence in sentences:
            self.add(sentence)

    def __contains__(self, sentence: str) -> bool:
        """Whether any of the sentences is near this one."""
        return next(self.near(sentence), None) is not None

    def add(self, sentence: str) -> None:
        """Add a sentence; one without a letter or digit is ignored."""
        text = comparable(sentence)
        if not text or text in self._sentences:
            return
        self._sentences[text] = sentence
        self._lengths.add(len(text))
        for start, end in _pieces(len(text)):
            self._pieces.setdefault((len(text), start, text[start:end]), []).append(text)

    def near(self, sentence: str) -> Iterator[str]:
        """All sentences near this one, the same one first."""
        text = comparable(sentence)
        seen = {text}
        if text in self._sentences:
            yield self._sentences[text]
        for other in self._candidates(text):
            if other not in seen:
                seen.add(other)
                if _are_near(text, other):
                    yield self._sentences[other]

    def _candidates(self, text: str) -> Iterator[str]:
        """The texts that share a piece with this one; some of them repeatedly."""
        shortest = len(text) - len(text) // CHARACTERS_PER_EDIT
        longest = len(text) * CHARACTERS_PER_EDIT // (CHARACTERS_PER_EDIT - 1)
        for length in range(max(shortest, 1), longest + 1):
            if length in self._lengths:
                for start, size, place in _windows(length, len(text)):
                    yield from self._pieces.get((length, start, text[place : place + size]), ())


def _are_near(text: str, other: str) -> bool:
    edits = max(len(text), len(other)) // CHARACTERS_PER_EDIT
    return Levenshtein.distance(text, other, score_cutoff=edits) <= edits


def _most_edits(length: int) -> int:
    """Between a text of this length and any near it: the longest such text has ``length * 10 / 9`` characters."""
    return length // (CHARACTERS_PER_EDIT - 1)


@lru_cache(maxsize=1000)
def _pieces(length: int) -> tuple[tuple[int, int], ...]:
    """Start and end of the pieces of a text of this length, one more than there can be edits."""
    number = _most_edits(length) + 1
    cuts = [i * length // number for i in range(number + 1)]
    return tuple(pairwise(cuts))


@lru_cache(maxsize=10_000)
def _windows(length: int, of_other: int) -> tuple[tuple[int, int, int], ...]:
    """Where a text of ``of_other`` characters can hold an unchanged piece of one of ``length``: start and size of the piece,
    and its place in the other text.

    Before the first unchanged piece that counts, each piece has an edit or more, and likewise after the last one, so piece
    ``i`` is moved by at most ``i`` from the start and by at most ``k - i`` from the end (section 4.3 of the paper).
    """
    most, longer = _most_edits(length), of_other - length
    found = []
    for i, (start, end) in enumerate(_pieces(length)):
        first = max(start - i, start + longer - (most - i), 0)
        last = min(start + i, start + longer + (most - i), of_other - (end - start))
        found += [(start, end - start, place) for place in range(first, last + 1)]
    return tuple(found)
