"""The arithmetic behind the published figures."""

from __future__ import annotations

import math

import pytest

from cefr_batch.records.figures import perplexity, reduction_percent


def test_the_published_b1_figures() -> None:
    """Losses 2.336 and 0.732, published as 2.34 and 0.73, give the published 10.34, 2.08, 68.7 % and 79.9 %."""
    before, after = 2.336, 0.732
    assert (round(perplexity(before), 2), round(perplexity(after), 2)) == (10.34, 2.08)
    assert round(reduction_percent(before, after), 1) == 68.7
    assert round(reduction_percent(10.34, 2.08), 1) == 79.9
    assert round(reduction_percent(perplexity(before), perplexity(after)), 1) == 79.9


def test_the_published_reductions_are_what_the_published_perplexities_allow() -> None:
    """Perplexities are published to two decimals, so the losses, their logarithms, are known within a small range."""
    most = reduction_percent(math.log(10.345), math.log(2.075))
    least = reduction_percent(math.log(10.335), math.log(2.085))
    assert least < 68.7 < most
    assert most - least < 0.3


def test_the_published_b1_training_losses_give_the_published_improvement() -> None:
    assert f"{reduction_percent(1.82, 0.34):.1f}" == "81.3"


def test_perplexity_is_e_to_the_loss() -> None:
    assert perplexity(math.log(10.34)) == pytest.approx(10.34)
    assert perplexity(0.0) == 1.0


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_perplexity_refuses_a_loss_that_is_no_number(loss: float) -> None:
    with pytest.raises(ValueError, match="perplexity of a loss"):
        perplexity(loss)


def test_a_figure_that_grew_has_a_negative_reduction() -> None:
    assert reduction_percent(2.0, 3.0) == -50.0


@pytest.mark.parametrize(("before", "after"), [(0, 1), (-1, 1), (math.nan, 1), (math.inf, 1), (1, math.nan)])
def test_reduction_refuses_what_has_none(before: float, after: float) -> None:
    with pytest.raises(ValueError, match=r"training diverged|must be above 0"):
        reduction_percent(before, after)
