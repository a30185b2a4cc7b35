"""Percentile bootstrap intervals, for losses over evaluation examples and for raters' marks over sentences.

The units (examples, sentences) are resampled whole, with replacement, and the interval lies between the percentiles of
what is then computed: B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3. Two statistics that
are resampled under one ``key`` use the same draws, so their difference is paired: P. Koehn, Statistical Significance Tests
for Machine Translation Evaluation, EMNLP 2004. With fewer than about 20 units such intervals are too narrow, unless the
number of units is given, for which they are then widened.

``scipy.stats.bootstrap`` computes the same interval of one statistic. It cannot keep the draws of one run to compare it
with several others, and would add 100 MB to every installation.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWS = 10_000
CONFIDENCE = 0.95
FEW_UNITS = 20  # below, what is resampled says little of how others would have come out
_SEED = 20251026  # fixed: the same store gives the same report
_AT_ONCE = 2**22  # indices in memory at the same time


@dataclass(frozen=True)
class Interval:
    """The limits between which a quantity lies with probability ``CONFIDENCE``, in the unit of the quantity."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval is on one side of zero."""
        return self.low > 0 or self.high < 0


def resample(
    n: int,
    statistics: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    *,
    key: str = "",
    draws: int = DRAWS,
) -> NDArray[np.float64]:
    """``statistics`` of ``draws`` resamples of ``n`` units.

    ``statistics`` is called with an array of indices, shape (rows, n), one resample a row, and returns the statistics of
    each resample, shape (rows,) or (rows, k); the result has shape (draws,) or (draws, k). Deterministic; calls with the
    same ``key`` and ``n`` use the same resamples.
    """
    return _resample((n,), statistics, key=key, draws=draws, width=n)


def resample_two(
    n: int,
    m: int,
    statistics: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]],
    *,
    key: str = "",
    draws: int = DRAWS,
    width: int = 1,
) -> NDArray[np.float64]:
    """As ``resample``, of two samples of ``n`` and ``m`` units, each resampled by itself.

    ``width``: how many numbers ``statistics`` holds in memory for one resample.
    """
    return _resample((n, m), statistics, key=key, draws=draws, width=max(n, m, width))


def _resample(
    sizes: Sequence[int], statistics: Callable[..., NDArray[np.float64]], *, key: str, draws: int, width: int
) -> NDArray[np.float64]:
    """``statistics`` of so many draws of samples of these sizes, some at a time."""
    generator = np.random.default_rng([_SEED, *hashlib.sha256(key.encode()).digest()])
    most = max(1, _AT_ONCE // width)
    rows = [min(most, draws - start) for start in range(0, draws, most)]
    return np.concatenate([statistics(*(generator.integers(0, n, (count, n)) for n in sizes)) for count in rows])


def percentile_interval(drawn: NDArray[np.float64], units: int | None = None) -> Interval | None:
    """The percentiles between which ``CONFIDENCE`` of the draws lie; None if a limit is not finite.

    ``units``: how many were resampled (of two samples: the smaller number, which is on the safe side). With it the
    percentiles are those that make up for the bootstrap's too small spread with few units: the expanded percentile
    interval of T. Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69(4), 2015.
    """
    tail = 50 * (1 - CONFIDENCE) if units is None else 100 * NormalDist().cdf(-_expanded(units))
    low, high = np.percentile(drawn, (tail, 100 - tail))
    return _interval(low, high)


def reflected_interval(
    observed: float, drawn: NDArray[np.float64], units: int | None = None, *, least: float = -math.inf
) -> Interval | None:
    """For a statistic that chance makes larger, such as a distance: the draws are off from ``observed`` as ``observed`` is
    from the truth, so the limits are those of ``percentile_interval`` reflected at ``observed``, and not below ``least``.

    The basic bootstrap interval: A. Davison, D. Hinkley, Bootstrap Methods and their Application, 1997, section 5.2.1.
    """
    found = percentile_interval(drawn, units)
    return found and _interval(max(least, 2 * observed - found.high), max(least, 2 * observed - found.low))


def _interval(low: float, high: float) -> Interval | None:
    # rounded: no digit that depends on the order in which a processor adds
    low, high = round(float(low), 6), round(float(high), 6)
    return Interval(low, high) if math.isfinite(low) and math.isfinite(high) else None


def _expanded(units: int) -> float:
    """How many standard deviations of the draws each limit is away: Student's t by the expansion 26.7.5 of Abramowitz and
    Stegun, Handbook of Mathematical Functions, 1964, and the factor by which the draws' spread is too small."""
    z, freedom = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), max(1, units - 1)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    student: float = sum(term / freedom**power for power, term in enumerate(terms))
    return student * math.sqrt(units / freedom)


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The interval of the mean of ``values``; None with fewer than two values."""
    if len(values) < 2:
        return None
    given = np.asarray(values, dtype=float)
    return percentile_interval(resample(len(given), lambda chosen: given[chosen].mean(axis=1)))
