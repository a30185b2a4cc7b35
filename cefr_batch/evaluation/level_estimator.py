"""A sentence's estimated CEFR level, on a continuous scale from 1 (A1) to 6 (C2).

A ridge regression over counted features (``level_features``), fitted by ``tools/fit_level_estimator.py`` on sentences that
two professionals each labelled (CEFR-SP, Arase et al. 2022). The fitted numbers, with their source, licence, and their error
on sentences that were not fitted, are in ``level_estimator.json``. Light: NumPy alone, no torch.

What it cannot do: it knows neither meaning nor grammar beyond what is counted, and like every regression it pulls towards
the middle (its estimates of A1 are too high, of C2 too low). Compare what it says of two sets of sentences: its bias
is in both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from cefr_batch.evaluation.level_features import FEATURES, features

LOWEST, HIGHEST = 1.0, 6.0


class _FittedModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class FittedFeature(_FittedModel):
    """A feature's mean and standard deviation in the fitted sentences, and its weight: levels per standard deviation."""

    mean: float
    deviation: float
    weight: float


class LevelError(_FittedModel):
    """The estimator's error on sentences of one level (their labels' mean, rounded), in levels.

    ``bias``: mean of estimate minus label; ``rmse``: root of the mean squared difference; ``estimated_as``: how many are
    estimated as A1 … C2 (the estimate, rounded).
    """

    sentences: int
    bias: float
    rmse: float
    estimated_as: dict[str, int]


class LevelAgreement(_FittedModel):
    """How well a measure agrees with the labels' mean: Spearman's rank correlation, and its error in levels."""

    spearman: float
    rmse: float


class LevelEstimator(_FittedModel):
    """The fitted numbers, and what is known of their error on sentences that were not fitted."""

    source: str
    licence: str
    citation: str
    fitted_sentences: int
    ridge: float  # the penalty on squared weights, chosen by cross-validation within the fitted sentences
    intercept: float
    features: dict[str, FittedFeature]
    agreement: LevelAgreement
    annotators_agreement: LevelAgreement  # of one annotator with the other, on the same sentences
    compared_with: dict[str, LevelAgreement]  # simpler measures, each fitted to the same sentences by a straight line
    errors: dict[str, LevelError]  # by level

    def estimate(self, sentences: Sequence[str]) -> NDArray[np.float64]:
        """The estimated level of each sentence, between 1.0 (A1) and 6.0 (C2); shape ``(len(sentences),)``.

        NaN for a text without a word.
        """
        values = np.array([features(sentence) for sentence in sentences], dtype=np.float64).reshape(-1, len(FEATURES))
        fitted = [self.features[name] for name in FEATURES]
        mean, deviation, weight = (
            np.array([getattr(one, key) for one in fitted]) for key in ("mean", "deviation", "weight")
        )
        estimates: NDArray[np.float64] = np.clip(
            self.intercept + ((values - mean) / deviation) @ weight, LOWEST, HIGHEST
        )
        return np.where(values[:, 0] > 0, estimates, np.nan)


@cache
def level_estimator() -> LevelEstimator:
    """The estimator that ships with the package."""
    text = (files("cefr_batch.evaluation") / "level_estimator.json").read_text(encoding="utf-8")
    return LevelEstimator.model_validate(json.loads(text))
