"""Does each level's model write at its level? The verdict on what it wrote, from the gap to the level's own sentences.

Of what the tuned model wrote greedily: its most probable text, which needs no random seed, and which people rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from statistics import fmean

from cefr_batch.config.schema import STARTER, Level
from cefr_batch.data.pairs import read_pairs
from cefr_batch.evaluation.bootstrap import Interval
from cefr_batch.evaluation.level_estimator import level_estimator
from cefr_batch.human_eval.level_scores import DistanceToTarget
from cefr_batch.records.level_figures import LevelFigures, LevelFiguresByMode, WrittenLevels
from cefr_batch.records.metrics import Metrics
from cefr_batch.report.collect import Entry, Report
from cefr_batch.report.compare import Comparison

FEW = (
    5  # answers or references; with fewer, even a widened bootstrap interval is too narrow (seen: with 3, 90 % of 95 %)
)
SMALL = (
    0.15  # levels: a third of the smallest distance between two levels' own sentences (A1 and A2 of the starter corpus)
)
HALF = 0.5  # levels: what "at its level" may at most be off, with its whole interval


class Verdict(Enum):
    """What can be said of a model's sentences."""

    NO_RUN = "no complete run"
    NO_TEXTS = "no generated texts"
    NO_SENTENCES = "no numbered sentence in the texts"
    NO_REFERENCES = "no evaluation sentences of the level"
    TOO_FEW = "too few answers or references"
    BELOW = "below its level"
    ABOVE = "above its level"
    SLIGHTLY_BELOW = "at its level, slightly below it"
    SLIGHTLY_ABOVE = "at its level, slightly above it"
    MIXED = "at its level on average, but not in its sentences"
    UNCERTAIN = "not certain"
    AT = "at its level"


@dataclass(frozen=True)
class Gain:
    """By how much percent training lowered the loss over the response: mean over repeated runs."""

    before: float
    after: float
    percent: float
    interval: Interval | None


@dataclass(frozen=True)
class Card:
    """What a report opens with, for one level. ``figures``: of the tuned model; ``nearest``: the level whose sentences
    measure most like the model's, where that is another than its own; ``alike``: the levels whose sentences measure less
    than half a level from those of its own; ``gain`` is None without figures; ``rated``: the levels that people gave to
    the tuned model's sentences, of each run that has such."""

    label: str
    entry: Entry
    verdict: Verdict
    figures: LevelFigures | None = None
    untrained: LevelFigures | None = None
    nearest: str | None = None
    gain: Gain | None = None
    alike: tuple[str, ...] = ()
    rated: tuple[DistanceToTarget, ...] = ()


def cards(report: Report, comparison: Comparison) -> list[Card]:
    """One for each entry of the report, in its order."""
    gains = dict(zip(comparison.labels, _gains(comparison), strict=True))
    return [_card(report, entry, gains) for entry in report.entries]


def _card(report: Report, entry: Entry, gains: Mapping[str, Gain]) -> Card:
    label = report.label(entry)
    if entry.result is None:
        return Card(label, entry, Verdict.NO_RUN)
    levels = entry.result.levels or WrittenLevels()
    figures, untrained = _greedy(levels.tuned), _greedy(levels.baseline)
    verdict = judge(figures)
    nearest, alike = None, tuple[str, ...]()
    if figures and figures.written and figures.gap and verdict is not Verdict.TOO_FEW:
        known = _typical_means(report)
        if verdict in (Verdict.BELOW, Verdict.ABOVE):
            nearest = _nearest(figures.written.mean.value, known, entry.level)
        own = known[entry.level]
        alike = tuple(level for level in sorted(known) if level != entry.level and abs(known[level] - own) < HALF)
    return Card(label, entry, verdict, figures, untrained, nearest, gains[label], alike, _rated(report, entry))


def _rated(report: Report, entry: Entry) -> tuple[DistanceToTarget, ...]:
    judged = report.ratings.levels if report.ratings else None
    runs = {result.run for result in entry.results}
    return tuple(one for one in (judged.distances if judged else ()) if one.run in runs and one.model == "tuned")


def _nearest(mean: float, known: Mapping[str, float], own: str) -> str | None:
    """The level whose sentences measure most like these, if that is another than their own and measures at least half a
    level away from it: closer ones cannot be told apart, as where somebody's B1 sentences measure like A2."""
    nearest = min(known, key=lambda level: abs(known[level] - mean))
    return nearest if abs(known[nearest] - known[own]) >= HALF else None


def _greedy(figures: LevelFiguresByMode | None) -> LevelFigures | None:
    return figures.greedy if figures else None


def judge(figures: LevelFigures | None) -> Verdict:
    """The verdict on a set of sentences. ``BELOW`` and ``ABOVE``: the interval of the mean difference excludes 0 (and all of
    it is within ``SMALL``: ``SLIGHTLY``); ``AT``: it includes 0 and lies within half a level; ``MIXED``: the latter, but the
    distribution is surely more than half a level away."""
    if figures is None:
        return Verdict.NO_TEXTS
    if figures.written is None:
        return Verdict.NO_SENTENCES
    if figures.references is None or figures.gap is None:
        return Verdict.NO_REFERENCES
    gap, distance = figures.gap.mean_difference, figures.gap.wasserstein
    if min(figures.written.units, figures.references.units) < FEW or gap.low is None or gap.high is None:
        return Verdict.TOO_FEW
    small = max(-gap.low, gap.high) <= SMALL
    if gap.excludes_zero and gap.high < 0:
        return Verdict.SLIGHTLY_BELOW if small else Verdict.BELOW
    if gap.excludes_zero:
        return Verdict.SLIGHTLY_ABOVE if small else Verdict.ABOVE
    if distance.low is not None and distance.low > HALF:
        return Verdict.MIXED
    return Verdict.AT if gap.low > -HALF and gap.high < HALF else Verdict.UNCERTAIN


def _gains(comparison: Comparison) -> list[Gain]:
    row = comparison.row("response_loss_reduction_percent")
    found = []
    for entry, value, interval in zip(comparison.entries, row.values, row.intervals, strict=True):
        metrics = [result.metrics for result in entry.results]
        before, after = (fmean(losses) for losses in zip(*map(_losses, metrics), strict=True))
        found.append(Gain(before, after, value.mean if value else 0.0, interval))
    return found


def _losses(metrics: Metrics) -> tuple[float, float]:
    return metrics.baseline.response.loss, metrics.tuned.response.loss


def _typical_means(report: Report) -> dict[str, float]:
    """What the sentences of each level measure on average: the report's own references, else the starter corpus."""
    own: dict[str, float] = {}
    for entry in report.with_figures:
        for result in entry.results:
            figures = _greedy(result.levels.tuned) if result.levels else None
            if figures and figures.references:
                own.setdefault(entry.level, figures.references.mean.value)
    return {level.value: _starter_mean(level) for level in Level if level.value not in own} | own


@cache
def _starter_mean(level: Level) -> float:
    estimates = level_estimator().estimate([pair.sentence for pair in read_pairs(STARTER, level)])
    return float(estimates.mean())
