"""What can be counted in the sentences that a model wrote for a list of words. Pure; any text is accepted.

Levels of words are those of `cefrpy` 1: one level for a word form (the average over its parts of speech), derived from
word lists and frequencies, blind to meaning; forms that it does not know (names, misspellings, rare words) are left out
and counted. Lemmas are `simplemma`'s.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from cefrpy import CEFRAnalyzer  # type: ignore[import-untyped]
from simplemma import lemmatize

from cefr_batch.config.schema import Level
from cefr_batch.data.examples import numbered_lines
from cefr_batch.data.near_duplicates import NearDuplicates
from cefr_batch.records.texts import Quality

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_LEVELS = CEFRAnalyzer()
OPENING = 3  # words


@dataclass(frozen=True)
class Answer:
    """What a model wrote (``text``) when it was asked for one sentence for each of ``words``; ``cut``: it reached the limit
    before it was closed."""

    words: tuple[str, ...]
    text: str
    cut: bool = False

    @property
    def sentences(self) -> list[str]:
        """The texts of the numbered lines, without empty ones."""
        return [sentence for _, sentence in numbered_lines(self.text) if sentence]

    def is_well_formed(self) -> bool:
        """Whether it is a numbered sentence for each word, in order, and nothing else."""
        lines = [line for line in self.text.split("\n") if line.strip()]
        numbered = numbered_lines(self.text)
        in_order = [number for number, _ in numbered] == list(range(1, len(self.words) + 1))
        return in_order and len(lines) == len(numbered) == len(self.sentences)

    def unused(self) -> list[str]:
        """The words that do not stand, inflected or not, in the first sentence that has their number."""
        by_number: dict[int, str] = {}
        for number, sentence in numbered_lines(self.text):
            by_number.setdefault(number, sentence)
        return [word for number, word in enumerate(self.words, 1) if not uses(by_number.get(number, ""), word)]


def quality(answers: Sequence[Answer], train_sentences: Collection[str], level: Level) -> Quality:
    """Count over all answers. ``train_sentences``: the sentences of the training data."""
    sentences = [sentence for answer in answers for sentence in answer.sentences]
    of_sentences = [words_of(sentence) for sentence in sentences]
    words = [word for of_one in of_sentences for word in of_one]
    openings = [tuple(of_one[:OPENING]) for of_one in of_sentences if of_one]
    levels = [word_level(word) for word in words]
    known = [of_word for of_word in levels if of_word is not None]
    highest = list(Level).index(level) + 1
    asked = sum(len(answer.words) for answer in answers)
    return Quality(
        answers=len(answers),
        sentences=len(sentences),
        well_formed_percent=_percent(sum(answer.is_well_formed() for answer in answers), len(answers)),
        words_used_percent=_percent(asked - sum(len(answer.unused()) for answer in answers), asked),
        copied_percent=_percent(sum(sentence in train_sentences for sentence in sentences), len(sentences)),
        duplicate_percent=_repeated_percent(sentences),
        words_per_sentence=len(words) / len(sentences) if sentences else None,
        at_or_below_level_percent=_percent(sum(of_word <= highest for of_word in known), len(known)),
        unknown_words_percent=_percent(len(words) - len(known), len(words)),
        readability_grade=readability_grade(sentences),
        near_copied_percent=_percent(_near_copies(sentences, train_sentences), len(sentences)),
        distinct_words_percent=_distinct_percent(words),
        distinct_word_pairs_percent=_distinct_percent([pair for one in of_sentences for pair in pairwise(one)]),
        repeated_openings_percent=_repeated_percent(openings),
        cut_percent=_percent(sum(answer.cut for answer in answers), len(answers)),
    )


def words_of(text: str) -> list[str]:
    """The running words, lower-case; parts of a hyphenated word count each."""
    return _WORD.findall(text.replace("’", "'").casefold())


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each running word stands: its first character, and the one after its last."""
    return [found.span() for found in _WORD.finditer(text.replace("’", "'"))]


def is_form_of(token: str, word: str) -> bool:
    """Whether a running word is an inflected form of a part of ``word``."""
    lemmas = {lemma for one in words_of(token) for lemma in _lemmas(one)}
    return any(lemmas & _lemmas(part) for part in words_of(word))


def uses(sentence: str, word: str) -> bool:
    """Whether each part of ``word`` stands in the sentence, in any inflected form."""
    parts = words_of(word)
    there = {lemma for token in words_of(sentence) for lemma in _lemmas(token)}
    return bool(parts) and all(there & _lemmas(part) for part in parts)


@lru_cache(maxsize=50_000)
def _lemmas(word: str) -> frozenset[str]:
    """The word itself too: ``left`` is a form of ``leave`` and a word of its own."""
    return frozenset((word, lemmatize(word, lang="en").casefold()))


@lru_cache(maxsize=50_000)
def word_level(word: str) -> int | None:
    """1 (A1) to 6 (C2) for a lower-case word, or for its lemma; None: not known."""
    for form in (word, lemmatize(word, lang="en").casefold()):
        if found := _LEVELS.get_average_word_level_CEFR(form):
            return int(found)
    return None


def readability_grade(sentences: Sequence[str]) -> float | None:
    """The Automated Readability Index: ``4.71 characters/words + 0.5 words/sentences - 21.43``.

    Letters and digits count as characters (Senter and Smith 1967, AMRL-TR-6620). None without a word.
    """
    words = sum(len(sentence.split()) for sentence in sentences)
    if not words:
        return None
    characters = sum(letter.isalnum() for sentence in sentences for letter in sentence)
    return 4.71 * characters / words + 0.5 * words / len(sentences) - 21.43


def _near_copies(sentences: Sequence[str], train_sentences: Collection[str]) -> int:
    """How many of the sentences are near one of the training data, or in it."""
    trained = NearDuplicates(train_sentences)
    return sum(sentence in train_sentences or sentence in trained for sentence in sentences)


def _distinct_percent(items: Sequence[Hashable]) -> float | None:
    return _percent(len(set(items)), len(items))


def _repeated_percent(items: Sequence[Hashable]) -> float | None:
    return _percent(len(items) - len(set(items)), len(items))


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None
