"""What a difference between losses is worth: mean and spread over repeated runs, bootstrap draws over examples.

A loss is a ratio of sums over examples, so the sums are resampled, never the examples' own means. What is resampled has to
be independent: examples that share sentences are not, so then the different sentences are resampled, each with all of its
occurrences (a cluster bootstrap: A. Davison, D. Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cefr_batch.evaluation.bootstrap import DRAWS, Interval, percentile_interval, resample
from cefr_batch.records.losses import EvaluatedExample

Vector = NDArray[np.float64]
Unit = Literal["example", "sentence"]
LossPart = Literal["response", "full"]  # whose tokens a loss counts


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n − 1; None of one) over repeated runs."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class ExampleSums:
    """Sums over an example's tokens, such as losses and a count: ``whole``, and what each of its sentences adds to it, by
    the number of the sentence in its set."""

    whole: tuple[float, ...]
    sentences: Mapping[int, tuple[float, ...]]


def by_unit(examples: Sequence[ExampleSums]) -> tuple[Vector, Unit]:
    """The sums of what can be resampled, shape (sums, units), in the order of the first occurrence; and what a unit is.

    It is an example, unless examples share sentences: then it is a different sentence with all of its occurrences, of
    which each takes with it an equal part of what belongs to no sentence of its example (the prompt, numbers, end-of-text).
    """
    occurrences = [number for example in examples for number in example.sentences]
    if len(set(occurrences)) == len(occurrences) or not all(example.sentences for example in examples):
        return np.array([example.whole for example in examples]).T, "example"
    sums: dict[int, Vector] = dict.fromkeys(occurrences, np.zeros(len(examples[0].whole)))
    for example in examples:
        own = np.array(list(example.sentences.values()))
        rest = (np.array(example.whole) - own.sum(axis=0)) / len(own)
        for number, values in zip(example.sentences, own, strict=True):
            sums[number] = sums[number] + values + rest
    return np.stack(list(sums.values()), axis=1), "sentence"


@dataclass(frozen=True)
class Sums:
    """The summed negative log-likelihood of each unit (see ``by_unit``) in nats, before and after, and over how many tokens.

    ``baseline`` and ``tuned`` may have a row for each repeated run; what is computed is then the mean over the runs.
    ``origin``: the SHA-256 of the evaluation file; as many sums of one origin are of the same examples in the same order.
    """

    baseline: Vector
    tuned: Vector
    tokens: Vector
    origin: str
    unit: Unit = "example"

    @classmethod
    def of(cls, examples: Sequence[EvaluatedExample], part: LossPart, origin: str) -> Sums:
        """Of at least one example's losses, over all tokens or those of the responses."""
        (baseline, tuned, tokens), unit = by_unit([_example_sums(one, part) for one in examples])
        return cls(baseline, tuned, tokens, origin, unit)

    @property
    def units(self) -> tuple[str, int, Unit]:
        """The same for sums of the same examples."""
        return self.origin, len(self.tokens), self.unit

    def reductions(self, chosen: NDArray[np.int64]) -> Vector:
        """Loss and perplexity reduction in percent of resampled units.

        ``chosen``: indices of units, shape (rows, units), one resample a row. Returns shape (rows, 2):
        ``100 (1 − tuned / baseline)`` of the loss, and ``100 (1 − exp(tuned − baseline))`` of the losses per token.
        """
        before, after = (np.atleast_2d(values)[:, chosen].sum(axis=2) for values in (self.baseline, self.tuned))
        with np.errstate(divide="ignore", invalid="ignore"):
            loss = 100 * (1 - after / before)
        perplexity = 100 * (1 - np.exp((after - before) / self.tokens[chosen].sum(axis=1)))
        return np.stack([loss.mean(axis=0), perplexity.mean(axis=0)], axis=1)


def _example_sums(example: EvaluatedExample, part: LossPart) -> ExampleSums:
    """Losses before and after, and how many tokens."""
    baseline, tuned, tokens = (getattr(sums, part) for sums in (example.baseline, example.tuned, example.tokens))
    sentences = {one.number: (one.baseline, one.tuned, float(one.tokens)) for one in example.sentences}
    return ExampleSums((baseline, tuned, float(tokens)), sentences)


def together(runs: Sequence[Sums | None]) -> Sums | None:
    """The sums of repeated runs of one level; None if any has none, or they are not of the same examples."""
    found = [one for one in runs if one]
    if not found or len(found) < len(runs) or len({one.units for one in found}) > 1:
        return None
    baseline, tuned = (np.stack([getattr(one, name) for one in found]) for name in ("baseline", "tuned"))
    return Sums(baseline, tuned, found[0].tokens, found[0].origin, found[0].unit)


@dataclass(frozen=True)
class Resampled:
    """Reductions in percent of ``n`` resampled units, a value for each draw.

    Sums of one origin are resampled alike, so that their differences are paired; sums of different origins independently.
    """

    loss: Vector
    perplexity: Vector
    n: int

    @classmethod
    def of(cls, sums: Sums, draws: int = DRAWS) -> Resampled | None:
        """None with fewer than two units, which show no variation."""
        n = len(sums.tokens)
        if n < 2:
            return None
        loss, perplexity = resample(n, sums.reductions, key=repr(sums.units), draws=draws).T
        return cls(loss, perplexity, n)

    def interval(self, quantity: Literal["loss", "perplexity"] = "loss") -> Interval | None:
        """Of the reduction of one quantity; None if it is not finite."""
        return percentile_interval(getattr(self, quantity), self.n)

    def interval_above(self, other: Resampled) -> Interval | None:
        """Of how much more the loss is reduced than that of ``other``, in percentage points."""
        return percentile_interval(self.loss - other.loss, min(self.n, other.n))
