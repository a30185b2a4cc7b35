#!/usr/bin/env python3
"""Fit the level estimator, and measure its error: writes cefr_batch/evaluation/level_estimator.json.

python tools/fit_level_estimator.py FOLDER [TARGET]

FOLDER has CEFR-SP's Wiki-Auto part as published: train.tsv is fitted, dev.tsv measured; each
line is a sentence and the levels that two annotators gave it (1 = A1 … 6 = C2), separated by tabs. The sentences never enter
the project; the fitted numbers may, with the citation. The same files give the same bytes.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from cefr_batch.evaluation.level_estimator import (  # noqa: E402 (the checkout's, whatever is installed)
    HIGHEST,
    LOWEST,
    FittedFeature,
    LevelAgreement,
    LevelError,
    LevelEstimator,
)
from cefr_batch.evaluation.level_features import FEATURES, features  # noqa: E402
from cefr_batch.evaluation.text_quality import readability_grade  # noqa: E402

SOURCE = "CEFR-SP, Wiki-Auto part: train.tsv was fitted, dev.tsv measured"
LICENCE = "CC BY-SA 3.0 (the sentences, which are not part of this project)"
CITATION = (
    "Yuki Arase, Satoru Uchida, Tomoyuki Kajiwara. 2022. CEFR-Based Sentence-Difficulty Annotation and Assessment. "
    "EMNLP 2022, arXiv 2210.11766"
)
NAMES = ("A1", "A2", "B1", "B2", "C1", "C2")
PENALTIES = (1.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
FOLDS = 5
DIGITS = 6  # decimals kept: far below the error, above what another processor's rounding changes

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Sentences:
    """``labels``: shape (n, 2), the levels that both annotators gave; ``values``: shape (n, features)."""

    texts: list[str]
    labels: Vector
    values: Vector

    @classmethod
    def read(cls, path: Path) -> Sentences:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        texts = [row[0] for row in rows]
        labels = np.array([[float(label) for label in row[1:3]] for row in rows])
        return cls(texts, labels, np.array([features(text) for text in texts]))

    @property
    def level(self) -> Vector:
        """The mean of both labels."""
        mean: Vector = self.labels.mean(axis=1)
        return mean


def main() -> None:
    folder = Path(sys.argv[1])
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "cefr_batch" / "evaluation" / "level_estimator.json"
    estimator = fit(Sentences.read(folder / "train.tsv"), Sentences.read(folder / "dev.tsv"))
    target.write_text(estimator.model_dump_json(indent=1) + "\n", encoding="utf-8")
    print(f"Spearman {estimator.agreement.spearman:.3f}, RMSE {estimator.agreement.rmse:.3f} levels; wrote {target}")


def fit(train: Sentences, dev: Sentences) -> LevelEstimator:
    """Fit on ``train``, measure on ``dev``."""
    mean, deviation = train.values.mean(axis=0), train.values.std(axis=0)
    penalty = min(PENALTIES, key=lambda one: validation_error((train.values - mean) / deviation, train.level, one))
    weights = ridge((train.values - mean) / deviation, train.level, penalty)
    fitted = {
        name: FittedFeature(mean=_round(m), deviation=_round(d), weight=_round(w))
        for name, m, d, w in zip(FEATURES, mean, deviation, weights[1:], strict=True)
    }
    estimated = np.clip(weights[0] + ((dev.values - mean) / deviation) @ weights[1:], LOWEST, HIGHEST)
    return LevelEstimator(
        source=SOURCE,
        licence=LICENCE,
        citation=CITATION,
        fitted_sentences=len(train.texts),
        ridge=penalty,
        intercept=_round(weights[0]),
        features=fitted,
        agreement=agreement(estimated, dev.level),
        annotators_agreement=agreement(dev.labels[:, 0], dev.labels[:, 1]),
        compared_with=simpler_measures(train, dev),
        errors=errors(estimated, dev.level),
    )


def ridge(values: Vector, levels: Vector, penalty: float) -> Vector:
    """The intercept (not penalised) and the weights that minimise squared error + penalty x squared weights."""
    design = np.column_stack([np.ones(len(values)), values])
    shrink = penalty * np.eye(design.shape[1])
    shrink[0, 0] = 0
    return np.linalg.solve(design.T @ design + shrink, design.T @ levels)


def validation_error(values: Vector, levels: Vector, penalty: float) -> float:
    """Mean squared error on folds that were left out: every fifth sentence, since files are sorted by label."""
    fold = np.arange(len(levels)) % FOLDS
    total = 0.0
    for out in range(FOLDS):
        weights = ridge(values[fold != out], levels[fold != out], penalty)
        total += float(((weights[0] + values[fold == out] @ weights[1:] - levels[fold == out]) ** 2).sum())
    return total / len(levels)


def simpler_measures(train: Sentences, dev: Sentences) -> dict[str, LevelAgreement]:
    """Each turned into levels by a straight line that is fitted like the estimator."""
    column = FEATURES.index("mean word level")
    measures = {
        "Automated Readability Index": [
            np.array([readability_grade([text]) or 0.0 for text in one.texts]) for one in (train, dev)
        ],
        "mean word level": [train.values[:, column], dev.values[:, column]],
    }
    found = {}
    for name, (fitted, measured) in measures.items():
        slope, start = np.polyfit(fitted, train.level, 1)
        found[name] = agreement(start + slope * measured, dev.level)
    return found


def agreement(estimated: Vector, level: Vector) -> LevelAgreement:
    """Spearman's rank correlation (Pearson's of the ranks, ties at their mean rank), and the root mean squared error."""
    rho = np.corrcoef(ranks(estimated), ranks(level))[0, 1]
    return LevelAgreement(spearman=_round(rho), rmse=_round(np.sqrt(((estimated - level) ** 2).mean())))


def ranks(values: Vector) -> Vector:
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(times)
    return ((last - times + 1 + last) / 2)[place]


def errors(estimated: Vector, level: Vector) -> dict[str, LevelError]:
    found = {}
    for number, name in enumerate(NAMES, 1):
        here = np.floor(level + 0.5) == number
        difference = estimated[here] - level[here]
        counted = Counter(np.floor(estimated[here] + 0.5).astype(int).tolist())
        found[name] = LevelError(
            sentences=int(here.sum()),
            bias=_round(difference.mean()),
            rmse=_round(np.sqrt((difference**2).mean())),
            estimated_as={other: counted[n] for n, other in enumerate(NAMES, 1)},
        )
    return found


def _round(value: float) -> float:
    return round(float(value), DIGITS)


if __name__ == "__main__":
    main()
