"""The level estimator: fitted by one command to the bit, right about its own error, sane on any text."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.published import published

from cefr_batch.config.schema import Level
from cefr_batch.data.pairs import read_pairs
from cefr_batch.evaluation.level_estimator import level_estimator
from cefr_batch.evaluation.level_features import FEATURES, features

ROOT = Path(__file__).parents[2]
FITTED = ROOT / "cefr_batch" / "evaluation" / "level_estimator.json"


def test_fitted_again_from_the_published_sentences_it_is_the_same_file(tmp_path: Path) -> None:
    folder = published("cefr-sp/train.tsv").parent
    target = tmp_path / "level_estimator.json"
    command = [sys.executable, str(ROOT / "tools" / "fit_level_estimator.py"), str(folder), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert target.read_bytes() == FITTED.read_bytes(), done.stdout


def test_its_stated_error_is_that_on_the_sentences_that_were_not_fitted() -> None:
    """Computed here by other code: estimates from the shipped file, SciPy-free rank correlation by its definition."""
    rows = [line.split("\t") for line in published("cefr-sp/dev.tsv").read_text(encoding="utf-8").splitlines()]
    label = np.array([(float(a) + float(b)) / 2 for _, a, b in rows])
    estimator = level_estimator()
    estimated = estimator.estimate([text for text, _, _ in rows])
    assert math.sqrt(float(((estimated - label) ** 2).mean())) == pytest.approx(estimator.agreement.rmse, abs=1e-5)
    assert spearman(estimated, label) == pytest.approx(estimator.agreement.spearman, abs=1e-5)
    assert estimator.agreement.rmse <= 0.62
    assert estimator.agreement.spearman >= 0.74
    for measure in estimator.compared_with.values():
        assert estimator.agreement.rmse < measure.rmse
        assert estimator.agreement.spearman > measure.spearman
    assert sum(error.sentences for error in estimator.errors.values()) == len(rows)


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Of a value's rank: how many are smaller, and half of those that are equal."""
    ranks = [(one[:, None] > one).sum(1) + (one[:, None] == one).sum(1) / 2 for one in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


# What the estimator says of the sentences that professionals gave each level (docs/starter-corpus.md): the mean, and half of
# its 95 % interval.
PROFESSIONALS = {
    Level.A1: (1.869, 0.131),
    Level.A2: (2.454, 0.056),
    Level.B1: (3.101, 0.021),
    Level.B2: (3.663, 0.016),
    Level.C1: (4.190, 0.020),
}


@pytest.mark.parametrize("level", list(Level))
def test_the_starter_corpus_measures_as_professionals_sentences_of_its_level(level: Level) -> None:
    """The 95 % interval of the difference of the means contains 0, and they are less than a tenth of a level apart."""
    estimated = level_estimator().estimate([pair.sentence for pair in read_pairs("starter", level)])
    expected, half = PROFESSIONALS[level]
    difference = float(estimated.mean()) - expected
    assert abs(difference) <= math.hypot(half, half_interval(estimated))
    assert abs(difference) < 0.1


def test_what_professionals_sentences_measure_is_stated_right() -> None:
    names = ("cefr-sp/train.tsv", "cefr-sp/dev.tsv")
    lines = [line for name in names for line in published(name).read_text(encoding="utf-8").splitlines()]
    rows = [line.split("\t") for line in lines]
    estimated = level_estimator().estimate([text for text, _, _ in rows])
    label = np.array([(float(a) + float(b)) / 2 for _, a, b in rows])
    for number, (mean, half) in enumerate(PROFESSIONALS.values(), 1):
        of_level = estimated[np.floor(label + 0.5) == number]
        assert float(of_level.mean()) == pytest.approx(mean, abs=6e-4)
        assert half_interval(of_level) == pytest.approx(half, abs=6e-4)


def half_interval(values: NDArray[np.float64]) -> float:
    """Half of the normal 95 % interval of the mean."""
    return 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values))


@given(st.lists(st.text(), max_size=5))
def test_any_text_has_a_level_between_a1_and_c2_or_none_without_a_word(sentences: list[str]) -> None:
    estimates = level_estimator().estimate(sentences)
    assert estimates.shape == (len(sentences),)
    for sentence, estimate in zip(sentences, estimates, strict=True):
        has_word = any(features(sentence))
        assert 1 <= estimate <= 6 if has_word else math.isnan(estimate)


def test_each_feature_counts_what_its_name_says() -> None:
    text = "When Mr Smith had been chosen, the committee, which is invited annually, was discussing 3 proposals."
    value = dict(zip(FEATURES, features(text), strict=True))
    expected: dict[str, float] = {
        "words": 15,
        "subordinators": 2,
        "commas": 3,
        "has digits": 1,
        "names": 2,
        "words in -ing": 1,
    }
    expected |= {"perfect tenses": 1, "passives": 2, "words in -ly": 1, "share of articles": 1 / 15, "coordinators": 0}
    assert {name: value[name] for name in expected} == pytest.approx(expected)


def test_the_documentation_states_the_fitted_files_figures() -> None:
    text = (ROOT / "docs" / "level-estimator.md").read_text(encoding="utf-8")
    estimator = level_estimator()
    for name, error in estimator.errors.items():
        counts = " | ".join(str(n) for n in error.estimated_as.values())
        assert f"| {name} | {error.sentences} | {error.bias:+.2f} | {error.rmse:.2f} | {counts} |" in text
    for measure in (estimator.agreement, estimator.annotators_agreement, *estimator.compared_with.values()):
        assert f"| {measure.spearman:.2f} | {measure.rmse:.2f} |" in text
    assert re.search(rf"\b{len(FEATURES)} features\b", text)
