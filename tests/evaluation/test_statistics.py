"""Bootstrap intervals: against direct computation, their rate of covering the truth, paired and unpaired differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cefr_batch.evaluation.bootstrap import CONFIDENCE
from cefr_batch.evaluation.statistics import ExampleSums, Resampled, Spread, Sums, by_unit, together

RANDOM = np.random.default_rng(1)


def simulated(
    n: int, random: np.random.Generator, tuned: float = 0.5, origin: str = "x", hardness: np.ndarray | None = None
) -> Sums:
    """Examples of different lengths, some harder than others before and after: a mean loss of 2 before, ``tuned`` after."""
    tokens = random.integers(120, 280, n).astype(float)
    hard = random.gamma(8, 1 / 8, n) if hardness is None else hardness
    baseline = tokens * 2.0 * hard * random.gamma(50, 1 / 50, n)
    return Sums(baseline, tokens * tuned * hard * random.gamma(20, 1 / 20, n), tokens, origin)


def bounds(sums: Sums, draws: int = 2000) -> tuple[float, float]:
    found = Resampled.of(sums, draws)
    assert found is not None
    limits = found.interval()
    assert limits is not None
    return limits.low, limits.high


def test_a_draw_is_the_reduction_of_the_resampled_examples() -> None:
    sums = simulated(7, RANDOM)
    chosen = np.array([[0, 1, 2, 3, 4, 5, 6], [0, 0, 0, 3, 4, 4, 6]])
    for again, (loss, perplexity) in zip(chosen, sums.reductions(chosen), strict=True):
        before, after, tokens = (sum(column[i] for i in again) for column in (sums.baseline, sums.tuned, sums.tokens))
        assert loss == pytest.approx(100 * (1 - after / before))
        assert perplexity == pytest.approx(100 * (1 - math.exp(after / tokens) / math.exp(before / tokens)))


def test_of_repeated_runs_a_draw_is_the_mean_of_their_reductions() -> None:
    """Not the reduction of their mean loss: a perplexity is no mean. Their interval then holds what the report shows."""
    a, b = (simulated(9, RANDOM, tuned) for tuned in (0.2, 0.9))
    b = Sums(b.baseline, b.tuned, a.tokens, a.origin)
    chosen = RANDOM.integers(0, 9, (5, 9))
    both = together([a, b])
    assert both
    assert np.allclose(both.reductions(chosen), (a.reductions(chosen) + b.reductions(chosen)) / 2)


@pytest.mark.parametrize("n", [50, 120])
def test_intervals_cover_the_truth_at_their_rate(n: int) -> None:
    """The true reduction of this simulation is 1 - 0.5 / 2 = 75 %: hardness, lengths and noise are independent with mean 1.
    400 simulated evaluation sets; three standard errors of a rate of 0.95 are 0.033, and the percentile bootstrap is known
    to fall some 0.01 short at n = 50."""
    random = np.random.default_rng(n)
    covered = 0
    for number in range(400):
        low, high = bounds(simulated(n, random, origin=str(number)), draws=1000)
        covered += low <= 75.0 <= high
    assert CONFIDENCE - 0.045 <= covered / 400 <= CONFIDENCE + 0.033


def test_differences_between_levels_cover_the_truth_at_their_rate() -> None:
    random = np.random.default_rng(9)
    covered = 0
    for number in range(300):
        a, b = (Resampled.of(simulated(80, random, tuned, f"{number} {tuned}"), 1000) for tuned in (0.5, 0.6))
        assert a is not None
        assert b is not None
        limits = a.interval_above(b)
        assert limits is not None
        covered += limits.low <= 5.0 <= limits.high
    assert CONFIDENCE - 0.05 <= covered / 300 <= CONFIDENCE + 0.038


def sharing(
    random: np.random.Generator, sentences: int, examples: int = 200, in_example: int = 10
) -> list[ExampleSums]:
    """Losses before and after, and tokens, of examples that draw their sentences from a few. What is hard about a sentence
    belongs to it, wherever it stands; the true reduction is 75 %."""
    length = random.integers(8, 20, sentences).astype(float)
    hard, easier = random.gamma(20, 1 / 20, sentences), random.gamma(20, 1 / 20, sentences)
    made = []
    for _ in range(examples):
        chosen = [int(s) for s in random.choice(sentences, in_example, replace=False)]
        of = {s: (2 * length[s] * hard[s], 0.5 * length[s] * hard[s] * easier[s], length[s]) for s in chosen}
        before, after, tokens = np.sum(list(of.values()), axis=0)
        made.append(ExampleSums((before + 40, after + 10, tokens + 20), of))  # and what is of no sentence
    return made


@pytest.mark.slow
@pytest.mark.parametrize("sentences", [18, 60])
def test_intervals_cover_the_truth_where_examples_share_sentences(sentences: int) -> None:
    """200 examples of 10 sentences each, of so few different ones. Examples, taken as independent, cover it too rarely."""
    random = np.random.default_rng(sentences)
    by_sentence = by_example = 0
    for number in range(200):
        examples = sharing(random, sentences)
        sums, unit = by_unit(examples)
        assert (sums.shape, unit) == ((3, sentences), "sentence")
        low, high = bounds(Sums(sums[0], sums[1], sums[2], str(number), unit), draws=500)
        by_sentence += low <= 75.0 <= high
        whole = np.array([one.whole for one in examples])
        low, high = bounds(Sums(whole[:, 0], whole[:, 1], whole[:, 2], str(number)), draws=500)
        by_example += low <= 75.0 <= high
    assert CONFIDENCE - 0.065 <= by_sentence / 200 <= CONFIDENCE + 0.047
    assert by_example / 200 < 0.75


def test_what_is_resampled_holds_all_that_the_examples_hold() -> None:
    """A sentence takes along an equal part of what is of no sentence in each example in which it stands."""
    first = ExampleSums((10.0, 5.0), {3: (4.0, 1.0), 0: (2.0, 2.0)})  # of no sentence: 4 and 2
    second = ExampleSums((9.0, 7.0), {3: (5.0, 1.0)})  # of no sentence: 4 and 6
    sums, unit = by_unit([first, second])
    assert unit == "sentence"
    assert sums.tolist() == [[4 + 2 + 5 + 4, 2 + 2], [1 + 1 + 1 + 6, 2 + 1]]
    assert sums.sum(axis=1).tolist() == [19, 12]


@pytest.mark.parametrize("other", [{1: (1.0,)}, {}], ids=["none shared", "some without sentences"])
def test_examples_that_share_no_sentence_are_resampled_whole(other: dict[int, tuple[float]]) -> None:
    sums, unit = by_unit([ExampleSums((2.0,), {0: (1.0,)}), ExampleSums((3.0,), other)])
    assert (sums.tolist(), unit) == ([[2.0, 3.0]], "example")


def test_on_the_same_examples_a_difference_is_known_better() -> None:
    """Paired draws cancel what makes examples easy or hard for both."""
    hard = RANDOM.gamma(8, 1 / 8, 100)

    def one(origin: str, tuned: float) -> Resampled:
        tokens = np.full(100, 200.0)
        found = Resampled.of(Sums(tokens * 2.0, tokens * tuned * hard, tokens, origin))
        assert found is not None
        return found

    same, other = one("same", 0.5), one("other", 0.52)
    paired = same.interval_above(one("same", 0.52))
    unpaired = same.interval_above(other)
    assert paired is not None
    assert unpaired is not None
    assert paired.excludes_zero
    assert not unpaired.excludes_zero
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 5


def test_draws_in_portions_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = simulated(30, RANDOM)
    whole = Resampled.of(sums, 100)
    monkeypatch.setattr("cefr_batch.evaluation.bootstrap._AT_ONCE", 30 * 7)
    portions = Resampled.of(sums, 100)
    assert whole is not None
    assert portions is not None
    assert np.allclose(whole.loss, portions.loss, rtol=1e-12)


def test_the_same_sums_always_give_the_same_interval() -> None:
    sums = simulated(40, RANDOM)
    assert bounds(sums) == bounds(sums)


def test_of_one_example_nothing_can_be_said_and_of_zero_losses_neither() -> None:
    one = np.array([1.0])
    assert Resampled.of(Sums(one, one, one, "x")) is None
    none = np.zeros(5)
    drawn = Resampled.of(Sums(none, none, np.ones(5), "x"))
    assert drawn is not None
    assert drawn.interval() is None


def test_mean_and_standard_deviation() -> None:
    three = Spread.of([2.0, 4.0, 9.0])
    assert (three.mean, three.n) == (5.0, 3)
    assert three.deviation == pytest.approx(math.sqrt(13.0))
    assert Spread.of([2.0]) == Spread(2.0, None, 1)
