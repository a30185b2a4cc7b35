"""What is counted in a sentence to estimate its CEFR level: words' levels, lengths, grammar markers. Pure; takes any text.

Each feature has a name that says what it is, so that the estimator's weights can be read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from cefr_batch.evaluation.text_quality import word_level, words_of


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SUBORDINATORS = _words(
    "after although as because before if since that though unless until when where whereas whether "
    "which while who whom whose"
)
_COORDINATORS = _words("and but nor or so yet")
_PREPOSITIONS = _words(
    "about against among as at between by during for from in into of on over through to under with within without"
)
_FORMS_OF_BE = _words("am are be been being is was were")
_MODALS = _words("can could may might must shall should will would")
_PRONOUNS = _words("he her him his i it its me my our she their them they us we you your")
_ARTICLES = frozenset(("a", "an", "the"))
_DERIVED = re.compile(r"([ts]ion|ment|ness|ity|ance|ence|ism|ship|ive|ous|ical|ary|ately)s?$")
_PERFECT = re.compile(r"\b(?:have|has|had|having)\s+(?:\w+\s+)?(?:been|\w+ed|\w+en)\b")
_PASSIVE = re.compile(r"\b(?:is|are|was|were|be|been|being)\s+(?:\w+ly\s+)?\w+(?:ed|en)\b")
_NAME = re.compile(r"(?<!^)\b[A-Z][a-z]+")
_DIGIT = re.compile(r"\d")
_BREAK = re.compile(r"[;:(]| [-–—] ")
_VOWELS = re.compile(r"[aeiouy]+")

_LONG = 7  # letters
_MOST_COUNTED = 8  # words above a level, so that one very long sentence does not outweigh all others

FEATURES = (
    "words", "words squared / 100", "log words", "letters per word", "letters of the longest word",
    "words of 7 letters or more", "share of words of 7 letters or more", "syllables per word",
    "words of 3 syllables or more", "share of words of 3 syllables or more",
    "mean word level", "mean word level x log words", "highest word level", "mean of the 3 highest word levels",
    "share of words at A2 or above", "share of words at B1 or above", "share of words at B2 or above",
    "share of words at C1 or above", "words at A2 or above", "words at B1 or above", "words at B2 or above",
    "words at C1 or above", "share of words of unknown level",
    "subordinators", "coordinators", "prepositions", "share of prepositions", "share of forms of be", "share of modals",
    "share of pronouns", "share of articles", "perfect tenses", "passives", "words in -ing", "words in -ed", "words in -ly",
    "derived words", "commas", "semicolons, colons, brackets, dashes", "has digits", "names", "share of names",
    "different words / words",
)  # fmt: skip


class _Word(NamedTuple):
    """What is counted of one word, whatever sentence it stands in."""

    letters: int
    syllables: int
    level: int | None
    ing: bool
    ed: bool
    ly: bool
    derived: bool


def features(sentence: str) -> tuple[float, ...]:
    """The values of ``FEATURES``, in their order. All zero for a text without a word."""
    words = words_of(sentence)
    if not words:
        return (0.0,) * len(FEATURES)
    return (*_lengths(words), *_levels(words), *_grammar(words), *_surface(sentence, words))


def _lengths(words: Sequence[str]) -> tuple[float, ...]:
    n, seen = len(words), [_word(word) for word in words]
    long = sum(word.letters >= _LONG for word in seen)
    polysyllables = sum(word.syllables >= 3 for word in seen)
    return (
        n,
        n * n / 100,
        math.log(n),
        sum(word.letters for word in seen) / n,
        max(word.letters for word in seen),
        long,
        long / n,
        sum(word.syllables for word in seen) / n,
        polysyllables,
        polysyllables / n,
    )


def _levels(words: Sequence[str]) -> tuple[float, ...]:
    n = len(words)
    known = sorted((level for word in words if (level := _word(word).level) is not None), reverse=True)
    mean = sum(known) / len(known) if known else 0.0
    at_least = [sum(level >= lowest for level in known) for lowest in (2, 3, 4, 5)]
    return (
        mean,
        mean * math.log(n),
        known[0] if known else 1,
        sum(known[:3]) / len(known[:3]) if known else 0.0,
        *(count / max(len(known), 1) for count in at_least),
        *(min(count, _MOST_COUNTED) for count in at_least),
        (n - len(known)) / n,
    )


def _grammar(words: Sequence[str]) -> tuple[float, ...]:
    n, text = len(words), " ".join(words)
    prepositions = _count(words, _PREPOSITIONS)
    return (
        _count(words, _SUBORDINATORS),
        _count(words, _COORDINATORS),
        prepositions,
        prepositions / n,
        *(_count(words, kind) / n for kind in (_FORMS_OF_BE, _MODALS, _PRONOUNS, _ARTICLES)),
        len(_PERFECT.findall(text)),
        len(_PASSIVE.findall(text)),
        sum(_word(word).ing for word in words),
        sum(_word(word).ed for word in words),
        sum(_word(word).ly for word in words),
        sum(_word(word).derived for word in words),
    )


def _surface(sentence: str, words: Sequence[str]) -> tuple[float, ...]:
    n, names = len(words), len(_NAME.findall(sentence))
    return (
        sentence.count(","),
        len(_BREAK.findall(sentence)),
        float(bool(_DIGIT.search(sentence))),
        names,
        names / n,
        len(set(words)) / n,
    )


def _count(words: Sequence[str], kind: frozenset[str]) -> int:
    return sum(word in kind for word in words)


@lru_cache(maxsize=50_000)
def _word(word: str) -> _Word:
    return _Word(
        letters=len(word),
        syllables=_syllables(word),
        level=word_level(word),
        ing=word.endswith("ing") and len(word) > 4,
        ed=word.endswith("ed") and len(word) > 3,
        ly=word.endswith("ly") and len(word) > 4,
        derived=bool(_DERIVED.search(word)),
    )


def _syllables(word: str) -> int:
    """Groups of vowels, a silent final e left out: a rough count, at least 1."""
    groups = len(_VOWELS.findall(word))
    silent = word.endswith("e") and not word.endswith("le") and groups > 1
    return max(groups - silent, 1)
