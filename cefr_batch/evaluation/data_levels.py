"""What in training data seems to be of another level, words above it and sentences whose estimated level is far from it, or
of another language.

All are warnings: word levels are those of a list that is blind to meaning, sentence levels those of an estimator with known
errors. Light: no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cefr_batch.config.schema import Level
from cefr_batch.data.io import DataFile
from cefr_batch.data.pairs import Pair
from cefr_batch.evaluation.level_estimator import level_estimator
from cefr_batch.evaluation.text_quality import word_level, word_spans, words_of
from cefr_batch.records.level_figures import SCALE

FAR = 1.5  # levels between a sentence's estimate and what the estimator says of the level's own sentences, on average


def warn_of_levels(file: DataFile, pairs: Sequence[tuple[int, Pair]], level: Level) -> None:
    """Note in the file's diagnostics each word above the level, and each sentence far from it or not in English, once.

    ``pairs``: words with their sentences, each with its record's number. The estimator's bias at the level is taken off.
    """
    highest = list(Level).index(level) + 1
    words: dict[str, int] = {}  # each with the number of the first record that has it
    sentences: dict[str, int] = {}
    for number, pair in pairs:
        words.setdefault(pair.word.casefold(), number)
        sentences.setdefault(pair.sentence, number)
    for word, number in words.items():
        of_word = max((known for one in words_of(word) if (known := word_level(one))), default=0)
        if of_word > highest:
            what = f"a word is above {level} in a word list that ignores meaning"
            file.warning(what, number, f"{word!r}, {SCALE[of_word - 1]}")
    expected = highest + level_estimator().errors[level.value].bias
    for (sentence, number), estimate in zip(
        sentences.items(), level_estimator().estimate(list(sentences)), strict=True
    ):
        if not seems_english(sentence):
            file.warning("a sentence does not seem to be English", number, repr(sentence))
        elif not math.isnan(estimate) and abs(estimate - expected) > FAR:
            what = f"the estimated level of a sentence is far from {level}"
            file.warning(what, number, f"{sentence!r}, about {SCALE[round(float(estimate)) - 1]}")


def seems_english(sentence: str) -> bool:
    """Whether the list of English words has more than half of the sentence's words. Those with a capital letter, which may
    be names, do not count; a sentence with fewer than two others is taken for English.

    In the starter corpus it has at least 80 % of each sentence's. Other languages share short words with English, so not
    every sentence in one of them is found.
    """
    spans = word_spans(sentence)
    words = [word for start, stop in spans if (word := sentence[start:stop].replace("’", "'")).islower()]
    known = sum(word_level(word) is not None for word in words)
    return len(words) < 2 or 2 * known > len(words)
