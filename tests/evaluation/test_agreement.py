"""Weighted kappa against the textbook's confusion matrix, rank correlation against ranks counted one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.kappa_by_definition import quadratic_weighted_kappa

from cefr_batch.evaluation.agreement import judgement_sums, kappa_of, spearman, weighted_kappa

PAIRS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=40)


@given(PAIRS)
def test_kappa_is_what_the_confusion_matrix_gives(pairs: list[tuple[int, int]]) -> None:
    expected = quadratic_weighted_kappa(pairs, categories=6)
    found = weighted_kappa(*zip(*pairs, strict=True))
    if expected is None:
        assert found is None
    else:
        assert found == pytest.approx(float(expected), abs=1e-12)


@given(PAIRS, PAIRS)
def test_sums_of_parts_add_up(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    parts = [judgement_sums(*zip(*pairs, strict=True)) for pairs in (some, others)]
    whole = judgement_sums(*zip(*(some + others), strict=True))
    assert np.array_equal(parts[0] + parts[1], whole)
    assert np.allclose(kappa_of(np.stack([*parts, whole])), [kappa_of(one) for one in (*parts, whole)], equal_nan=True)


def test_known_values() -> None:
    """Full agreement, opposite judgements, and a judge who always says the same."""
    assert weighted_kappa([1, 2, 3, 6], [1, 2, 3, 6]) == 1
    assert weighted_kappa([1, 6], [6, 1]) == -1
    assert weighted_kappa([1, 2, 3], [2, 2, 2]) == pytest.approx(0, abs=1e-12)
    assert weighted_kappa([3, 3], [3, 3]) is None


def plain_spearman(first: list[int], second: list[int]) -> float | None:
    def ranks(values: list[int]) -> list[float]:
        return [sum(one < value for one in values) + (values.count(value) + 1) / 2 for value in values]

    a, b = ranks(first), ranks(second)
    middle = (len(a) + 1) / 2
    over = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    under = sum((x - middle) ** 2 for x in a) * sum((y - middle) ** 2 for y in b)
    return over / under**0.5 if under else None


@given(PAIRS)
def test_rank_correlation_with_ties(pairs: list[tuple[int, int]]) -> None:
    first, second = (list(values) for values in zip(*pairs, strict=True))
    expected = plain_spearman(first, second)
    found = spearman(np.array(first, dtype=float), np.array(second, dtype=float))
    assert found == pytest.approx(float("nan") if expected is None else expected, abs=1e-12, nan_ok=True)
