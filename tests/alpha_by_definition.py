"""Krippendorff's alpha for ordinal data, written down from its definition and exact; no library.

K. Krippendorff: Computing Krippendorff's Alpha-Reliability (2011), section E and the ordinal metric.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import permutations


def ordinal_alpha(units: Iterable[Sequence[int]]) -> Fraction | None:
    """``units``: for each thing rated, the marks that it was given. None where no two marks can be compared or differ."""
    coincidences: dict[tuple[int, int], Fraction] = defaultdict(Fraction)
    for marks in units:
        for pair in permutations(marks, 2):
            coincidences[pair] += Fraction(1, len(marks) - 1)
    totals: dict[int, Fraction] = defaultdict(Fraction)
    for (c, _), count in coincidences.items():
        totals[c] += count
    n = sum(totals.values())

    def squared_distance(c: int, k: int) -> Fraction:
        between = sum(totals[g] for g in totals.copy() if min(c, k) <= g <= max(c, k))
        return Fraction(between - (totals[c] + totals[k]) / 2) ** 2

    values = list(totals)
    observed = sum(count * squared_distance(c, k) for (c, k), count in coincidences.items() if c != k)
    expected = sum(totals[c] * totals[k] * squared_distance(c, k) for c in values for k in values if c != k)
    return None if not expected else Fraction(1 - (n - 1) * observed / expected)
