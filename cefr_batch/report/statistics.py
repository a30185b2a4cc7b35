"""What a difference between losses is worth: mean and spread over repeated runs, bootstrap intervals over examples.

The bootstrap resamples evaluation examples, whole, with replacement, and takes the percentiles of what is then computed
(B. Efron, R. Tibshirani: An Introduction to the Bootstrap, 1993, section 13.3; for comparing systems on one test set, the
same resampled examples for both: P. Koehn, Statistical Significance Tests for Machine Translation Evaluation, EMNLP 2004).
A loss is a ratio of sums over examples, so the sums are resampled, never the examples' own means.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
CONFIDENCE = 0.95
_SEED = 20251026  # the same store gives the same report
_AT_ONCE = 2**22  # counts in memory at once

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Where a quantity lies with ``CONFIDENCE``."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n − 1; None of one) over repeated runs."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Sums:
    """Each example's summed negative log-likelihood in nats, before and after, and over how many tokens.

    ``baseline`` and ``tuned`` may have a row for each repeated run; what is computed is then the mean over the runs.
    ``origin``: the SHA-256 of the evaluation file; sums of one origin are of the same examples in the same order.
    """

    baseline: Vector
    tuned: Vector
    tokens: Vector
    origin: str

    @property
    def examples(self) -> tuple[str, int]:
        """The same for sums of the same examples."""
        return self.origin, len(self.tokens)

    def reductions(self, counts: NDArray[np.int64]) -> Vector:
        """``100 (1 − tuned / baseline)`` of the loss, for each row of how often each example counts."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return _mean_over_runs(100 * (1 - _totals(counts, self.tuned) / _totals(counts, self.baseline)))

    def perplexity_reductions(self, counts: NDArray[np.int64]) -> Vector:
        """``100 (1 − exp(tuned − baseline))``, the losses being means over tokens."""
        change = _totals(counts, self.tuned - self.baseline) / _totals(counts, self.tokens)
        return _mean_over_runs(100 * (1 - np.exp(change)))


def _totals(counts: NDArray[np.int64], values: Vector) -> Vector:
    """A row for each draw, a column for each run."""
    return np.asarray(counts @ np.atleast_2d(values).T)


def _mean_over_runs(values: Vector) -> Vector:
    return np.asarray(values.mean(axis=1))


def together(runs: Sequence[Sums]) -> Sums:
    """The sums of repeated runs of one level, which are of the same examples."""
    baseline, tuned = (np.stack([getattr(one, name) for one in runs]) for name in ("baseline", "tuned"))
    return Sums(baseline, tuned, runs[0].tokens, runs[0].origin)


@dataclass(frozen=True)
class Resampled:
    """Reductions in percent of resampled examples, a value for each draw.

    Sums of one origin are resampled alike, so that their differences are paired; sums of different origins independently.
    """

    loss: Vector
    perplexity: Vector

    @classmethod
    def of(cls, sums: Sums, draws: int = DRAWS) -> Resampled | None:
        """None with fewer than two examples, of which nothing can be said."""
        n = len(sums.tokens)
        if n < 2:
            return None
        generator = np.random.default_rng([_SEED, *hashlib.sha256(repr(sums.examples).encode()).digest()])
        loss, perplexity = [], []
        for rows in _portions(draws, max(1, _AT_ONCE // n)):
            counts = generator.multinomial(n, np.full(n, 1 / n), size=rows)
            loss.append(sums.reductions(counts))
            perplexity.append(sums.perplexity_reductions(counts))
        return cls(np.concatenate(loss), np.concatenate(perplexity))


def interval(drawn: Vector) -> Interval | None:
    """The percentiles between which ``CONFIDENCE`` of the draws lie; None if they are not finite."""
    tail = 50 * (1 - CONFIDENCE)
    # no digit that depends on the order in which a processor adds
    low, high = (round(float(value), 6) for value in np.percentile(drawn, (tail, 100 - tail)))
    return Interval(low, high) if math.isfinite(low) and math.isfinite(high) else None


def _portions(total: int, most: int) -> list[int]:
    return [min(most, total - start) for start in range(0, total, most)]
