"""Warnings of words above a level, and of sentences far from it, with how many there are and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from cefr_batch.config.schema import Level
from cefr_batch.data.checks import check_file
from cefr_batch.data.pairs import read_pairs, starter_file
from cefr_batch.evaluation.data_levels import seems_english, warn_of_levels

HARD = (
    "Notwithstanding considerable methodological heterogeneity, the aforementioned investigations unequivocally "
    "corroborate the hypothesis that socioeconomic deprivation exacerbates intergenerational inequality."
)
PLAIN = ("cat,The cat sleeps on my bed.", "dog,My dog likes the park.", "house,We have a big house.")


def warnings(path: Path, level: Level) -> list[str]:
    found = check_file(path)
    warn_of_levels(found.file, found.pairs, level)
    return [str(one).removeprefix(f"{path}: ") for one in found.diagnostics.warnings]


def test_words_and_sentences_above_the_level_are_counted_and_their_places_shown(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    hard = [f'{word},"{word.title()}: {HARD}"' for word in ("alleviate", "conducive", "contemplate", "daunting")]
    path.write_text("\n".join(["word,sentence", PLAIN[0], hard[0], PLAIN[1], *hard[1:], hard[0], PLAIN[2]]))
    words, sentences = (one for one in warnings(path, Level.A2) if "A2" in one)
    assert words == (
        "a word is above A2 in a word list that ignores meaning; 4 times, at line 3 ('alleviate', C2), "
        "5 ('conducive', C2), 6 ('contemplate', C2), 7 ('daunting', C2)"
    )
    assert sentences.startswith("the estimated level of a sentence is far from A2; 4 times, at line 3 ('Allevi")
    assert not any("C1" in one for one in warnings(path, Level.C1) if one.startswith("a sentence") and "Allev" in one)


def test_sentences_far_below_are_named_too(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("\n".join(["word,sentence", *PLAIN]))
    (sentences,) = (one for one in warnings(path, Level.C1) if "far from C1" in one)
    assert "3 times, at line 2 ('The cat sleeps on my bed.', about A2)" in sentences
    assert warnings(path, Level.A1) == []


def test_examples_are_looked_at_as_their_pairs(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    listed = "Write:\\n1. cat\\n2. daunting"
    path.write_text(f'[{{"instruction": "{listed}", "output": "1. The cat sleeps.\\n2. Daunting: {HARD}"}}]')
    found = warnings(path, Level.A1)
    assert any(one.startswith("index 0 (from 0): a word is above A1") and "'daunting', C2" in one for one in found)
    assert any(one.startswith("index 0 (from 0): the estimated level of a sentence is far from A1") for one in found)


@pytest.mark.parametrize("level", list(Level))
def test_no_sentence_of_the_starter_corpus_is_far_from_its_level(level: Level) -> None:
    assert not [one for one in warnings(starter_file(level), level) if "far from" in one]


FOREIGN = [
    "Her sabah okula yürüyerek giderim.",
    "Kedi masanın üstünde uyuyor.",
    "Annem mutfakta yemek yapıyor.",
    "Ne zaman karar vereceksin?",
    "Ali top oynuyor.",
    "Toplantıya davet edildim.",
    "Wir fahren morgen früh wieder nach Hause.",
    "Er hat sich für einen neuen Beruf entschieden.",
    "Je vais à l’école tous les jours.",
    "Nous avons décidé de voyager en été.",
]
ENGLISH = [
    "Mehmet and Ayşe visited Kapadokya.",
    "We eat simit and börek in Eminönü.",
    "He doesn’t know.",
    "Atatürk founded Türkiye Cumhuriyeti.",
    "Stop!",
    HARD,
]


def test_sentences_of_another_language_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("\n".join(["word,sentence", *(f'x,"{one}"' for one in [*FOREIGN, *ENGLISH])]))
    (found,) = (one for one in warnings(path, Level.A2) if "does not seem to be English" in one)
    assert found.startswith(
        f"a sentence does not seem to be English; {len(FOREIGN)} times, at line 2 ({FOREIGN[0]!r}), 3 ("
    )
    assert not any(f"{FOREIGN[0]!r}, about" in one for one in warnings(path, Level.C1)), "its level is not estimated"


@pytest.mark.parametrize("level", list(Level))
def test_the_starter_corpus_is_english_by_far(level: Level) -> None:
    for source in ("starter", "starter-v1"):
        assert all(seems_english(pair.sentence) for pair in read_pairs(source, level))
    assert not [one for one in warnings(starter_file(level), level) if "English" in one]
