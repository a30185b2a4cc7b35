"""How far two sets of judgements of the same things agree: quadratic weighted kappa, and Spearman's rank correlation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def judgement_sums(first: Sequence[float], second: Sequence[float]) -> Vector:
    """What ``kappa_of`` needs of some pairs of judgements; sums of several parts add up to those of all. Shape ``(6,)``."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return np.array([len(a), a.sum(), b.sum(), (a * a).sum(), (b * b).sum(), ((a - b) ** 2).sum()])


def kappa_of(sums: Vector) -> Vector:
    """Quadratic weighted kappa from ``judgement_sums``, shape ``(…, 6)`` → ``(…)``; NaN where all judgements are the same.

    ``1 − observed / expected``: the mean squared difference of the pairs, and the one of each judgement of the first set
    with each of the second, which is what chance would give (J. Cohen, Weighted kappa, Psychological Bulletin 70(4), 1968).
    """
    number, a, b, squares_a, squares_b, differences = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = (squares_a + squares_b) / number - 2 * a * b / number**2
        kappa: Vector = np.where(expected > 1e-12, 1 - differences / number / expected, np.nan)
    return kappa


def weighted_kappa(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Quadratic weighted kappa of two judges' whole numbers for the same things; None where it is not defined."""
    kappa = float(kappa_of(judgement_sums(first, second)))
    return None if np.isnan(kappa) else kappa


def spearman(first: Vector, second: Vector) -> float:
    """Spearman's rank correlation, equal values with their mean rank; NaN where all values of a set are the same."""
    a, b = (ranks - ranks.mean() for ranks in map(_ranks, (first, second)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float((a @ b) / np.sqrt((a @ a) * (b @ b)))


def _ranks(values: Vector) -> Vector:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Vector = (counts.cumsum() - (counts - 1) / 2)[place]
    return ranks
