"""The interval of a mean: against the normal approximation, and how often it holds the true mean."""

from __future__ import annotations

from random import Random
from statistics import fmean, pstdev

import numpy as np
import pytest

from cefr_batch.evaluation.bootstrap import Interval, mean_interval, percentile_interval, resample


def test_the_interval_of_many_values_is_the_one_of_the_normal_approximation() -> None:
    values = [float(number * number % 5 + 1) for number in range(400)]
    mean, error = fmean(values), pstdev(values) / 400**0.5
    interval = mean_interval(values)
    assert interval
    assert interval.low == pytest.approx(mean - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(mean + 1.96 * error, abs=0.15 * error)


def test_the_interval_of_few_values_covers_the_true_mean_at_about_its_rate() -> None:
    """400 samples of 20 marks: 95 % would be 380; the percentile interval is a little narrow. 345 allows for chance."""
    random = Random(1)
    marks, weights = (1.0, 2.0, 3.0, 4.0, 5.0), (10, 20, 30, 25, 15)
    truth = sum(mark * weight for mark, weight in zip(marks, weights, strict=True)) / 100
    intervals = [mean_interval(random.choices(marks, weights, k=20)) for _ in range(400)]
    assert 345 <= sum(one is not None and one.low <= truth <= one.high for one in intervals) <= 395


def test_one_value_has_no_interval_and_equal_values_have_a_point() -> None:
    assert mean_interval([3.0]) is None
    assert mean_interval([3.0, 3.0]) == Interval(3.0, 3.0)


def test_one_key_gives_the_same_draws_and_another_key_others() -> None:
    values = np.arange(30.0)
    first, again, other = (resample(30, lambda i: values[i].sum(axis=1), key=key, draws=50) for key in ("a", "a", "b"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_draws_that_are_not_finite_give_no_interval() -> None:
    assert percentile_interval(np.array([1.0, np.nan, 2.0])) is None
