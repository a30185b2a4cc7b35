"""Cohen's quadratic weighted kappa, written down from its definition and exact; no library, nothing of the project."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction


def quadratic_weighted_kappa(pairs: Iterable[tuple[int, int]], categories: int) -> Fraction | None:
    """1 − Σ w·observed / Σ w·expected over the confusion matrix, w = ((i − j) / (k − 1))²; None if nothing is expected."""
    observed = Counter(pairs)
    number = sum(observed.values())
    rows, columns = Counter[int](), Counter[int]()
    for (i, j), count in observed.items():
        rows[i] += count
        columns[j] += count
    disagreement = expected = Fraction(0)
    for i in range(1, categories + 1):
        for j in range(1, categories + 1):
            weight = Fraction((i - j) ** 2, (categories - 1) ** 2)
            disagreement += weight * Fraction(observed[i, j], number)
            expected += weight * Fraction(rows[i], number) * Fraction(columns[j], number)
    return 1 - disagreement / expected if expected else None
