"""Krippendorff's alpha for ordinal and interval data, written down from its definition and exact; no library.

K. Krippendorff: Computing Krippendorff's Alpha-Reliability (2011), section E and the two metrics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import permutations


def ordinal_alpha(units: Iterable[Sequence[int]]) -> Fraction | None:
    """``units``: for each thing rated, the marks that it was given. None where no two marks can be compared or differ."""

    def squared_distance(c: int, k: int, totals: Mapping[int, Fraction]) -> Fraction:
        between = sum(totals[g] for g in totals if min(c, k) <= g <= max(c, k))
        return Fraction(between - (totals[c] + totals[k]) / 2) ** 2

    return _alpha(units, squared_distance)


def interval_alpha(units: Iterable[Sequence[int]]) -> Fraction | None:
    """As ``ordinal_alpha``, with the differences of the numbers themselves."""
    return _alpha(units, lambda c, k, totals: Fraction((c - k) ** 2))


def _alpha(
    units: Iterable[Sequence[int]], squared_distance: Callable[[int, int, Mapping[int, Fraction]], Fraction]
) -> Fraction | None:
    coincidences: dict[tuple[int, int], Fraction] = defaultdict(Fraction)
    for marks in units:
        for pair in permutations(marks, 2):
            coincidences[pair] += Fraction(1, len(marks) - 1)
    totals: dict[int, Fraction] = defaultdict(Fraction)
    for (c, _), count in coincidences.items():
        totals[c] += count
    n, values = sum(totals.values()), list(totals)
    observed = sum(count * squared_distance(c, k, totals) for (c, k), count in coincidences.items() if c != k)
    expected = sum(totals[c] * totals[k] * squared_distance(c, k, totals) for c in values for k in values if c != k)
    return None if not expected else Fraction(1 - (n - 1) * observed / expected)
