"""The levels side by side: what is compared, which way is better, who is best, and which differences exceed noise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal

from cefr_batch.config.load import comparable
from cefr_batch.evaluation.bootstrap import Interval
from cefr_batch.evaluation.statistics import LossPart, Resampled, Spread, Sums
from cefr_batch.i18n.language import N_, NONE, Language
from cefr_batch.records.metrics import Metrics
from cefr_batch.report.collect import Entry, Report, Result

Number = float | int | None
Show = Callable[[Language, Any], str]
Better = Literal["higher", "lower"] | None


@dataclass(frozen=True)
class Measure:
    """A row of the comparison. ``better`` is None where more or less is no merit; ``drawn``: which quantity, over
    which tokens, is resampled for an interval."""

    key: str
    label: str
    better: Better
    of: Callable[[Metrics], Number]
    show: Show
    drawn: tuple[LossPart, Literal["loss", "perplexity"]] | None = None


def _best_eval_loss(metrics: Metrics) -> Number:
    return metrics.best.eval_loss if metrics.best else None


_COUNT, _FIGURE, _PERCENT, _TIME = Language.count, Language.figure, Language.percent, Language.short_duration

MEASURES = (
    Measure("train_examples", N_("Train examples"), None, lambda m: m.data.train_examples, _COUNT),
    Measure("unique_words", N_("Unique words"), None, lambda m: m.data.unique_words, _COUNT),
    Measure("longest_example_tokens", N_("Max token length"), None, lambda m: m.data.longest_example_tokens, _COUNT),
    Measure(
        "leaked_sentences_percent",
        N_("Evaluation sentences seen in training"),
        None,
        lambda m: m.leakage.sentences_percent,
        _PERCENT,
    ),
    Measure(
        "near_leaked_sentences_percent",
        N_("… seen word for word or nearly so"),
        None,
        lambda m: m.leakage.near_sentences_percent,
        _PERCENT,
    ),
    Measure(
        "response_loss_reduction_percent",
        N_("Loss reduction, response only"),
        "higher",
        lambda m: m.reduction.response.loss_percent,
        _PERCENT,
        ("response", "loss"),
    ),
    Measure(
        "loss_reduction_percent",
        N_("Loss reduction, all tokens"),
        "higher",
        lambda m: m.reduction.full.loss_percent,
        _PERCENT,
        ("full", "loss"),
    ),
    Measure(
        "perplexity_reduction_percent",
        N_("Perplexity reduction, all tokens"),
        "higher",
        lambda m: m.reduction.full.perplexity_percent,
        _PERCENT,
        ("full", "perplexity"),
    ),
    Measure(
        "seed_protocol_loss_reduction_percent",
        N_("Loss reduction, first report's protocol"),
        "higher",
        lambda m: m.reduction.seed_protocol.loss_percent,
        _PERCENT,
    ),
    Measure(
        "seed_protocol_perplexity_reduction_percent",
        N_("Perplexity reduction, first report's protocol"),
        "higher",
        lambda m: m.reduction.seed_protocol.perplexity_percent,
        _PERCENT,
    ),
    Measure("training_seconds", N_("Training time"), None, lambda m: m.train.duration_seconds, _TIME),
    Measure("final_train_loss", N_("Final train loss"), "lower", lambda m: m.train.final_loss, _FIGURE),
    Measure("best_eval_loss", N_("Best eval loss"), "lower", _best_eval_loss, _FIGURE),
    Measure(
        "tuned_response_perplexity",
        N_("Tuned perplexity, response only"),
        "lower",
        lambda m: m.tuned.response.perplexity,
        _FIGURE,
    ),
)


@dataclass(frozen=True)
class Row:
    """``intervals`` is empty for a measure that has none."""

    measure: Measure
    values: tuple[Spread | None, ...]
    best: tuple[bool, ...]
    intervals: tuple[Interval | None, ...] = ()


@dataclass(frozen=True)
class LevelDifference:
    """How much more percent the loss over ``part`` of column ``higher`` was reduced than that of ``lower``, in percentage
    points."""

    part: LossPart
    higher: int
    lower: int
    points: float
    interval: Interval | None
    paired: bool

    @property
    def exceeds_noise(self) -> bool | None:
        """None: not known."""
        return self.interval.excludes_zero if self.interval else None


@dataclass(frozen=True)
class Comparison:
    """The levels that have figures, a column each; the settings in which they differ (a value a column). ``differences``: of
    the loss over the response, which is what a model learned to write, and of that over all tokens."""

    labels: tuple[str, ...]
    entries: tuple[Entry, ...]
    rows: tuple[Row, ...]
    differences: Mapping[LossPart, tuple[LevelDifference, ...]]
    differing: Mapping[str, tuple[Any, ...]]

    def row(self, key: str) -> Row:
        """The row of the measure with this key."""
        return next(row for row in self.rows if row.measure.key == key)

    @property
    def results(self) -> tuple[Result, ...]:
        """The newest of each column."""
        return tuple(entry.results[0] for entry in self.entries)


@lru_cache(maxsize=1)  # every format of a report asks for it
def compare(report: Report) -> Comparison:
    """The entries of a report that have figures, side by side."""
    entries = report.with_figures
    sums: Mapping[LossPart, list[Sums | None]] = {
        "response": [entry.response_sums for entry in entries],
        "full": [entry.sums for entry in entries],
    }
    drawn = {part: [Resampled.of(one) if one else None for one in found] for part, found in sums.items()}
    rows = tuple(_row(measure, entries, drawn) for measure in MEASURES)
    reductions = {row.measure.drawn: row for row in rows}
    return Comparison(
        tuple(report.label(entry) for entry in entries),
        entries,
        rows,
        {part: tuple(_differences(part, sums[part], drawn[part], reductions[part, "loss"])) for part in sums},
        _differing([entry.results[0] for entry in entries]),
    )


def _row(measure: Measure, entries: Sequence[Entry], drawn: Mapping[LossPart, Sequence[Resampled | None]]) -> Row:
    spreads = tuple(spread(measure, entry.results) for entry in entries)
    means = [one.mean if one else None for one in spreads]
    best = best_of(means, measure.better, lambda value: measure.show(Language("en"), value))
    if measure.drawn is None:
        return Row(measure, spreads, best)
    part, quantity = measure.drawn
    return Row(measure, spreads, best, tuple(one.interval(quantity) if one else None for one in drawn[part]))


def spread(measure: Measure, results: Sequence[Result]) -> Spread | None:
    """Over runs that repeat each other; None if none has the value."""
    values = [value for result in results if (value := measure.of(result.metrics)) is not None]
    return Spread.of(values) if values else None


def best_of(values: Sequence[Number], better: Better, show: Callable[[Any], str]) -> tuple[bool, ...]:
    """Which values are the row's best. What looks the same is a tie, and all of a tie are marked; where all are
    alike, or there is one alone, nothing is better than anything."""
    known = [v for v in values if v is not None]
    if better is None or len({show(v) for v in known}) < 2:
        return tuple(False for _ in values)
    best = show(max(known) if better == "higher" else min(known))
    return tuple(v is not None and show(v) == best for v in values)


def _differences(
    part: LossPart, sums: Sequence[Sums | None], drawn: Sequence[Resampled | None], row: Row
) -> Iterator[LevelDifference]:
    """Of every two columns."""
    for a, b in combinations(range(len(sums)), 2):
        first, second = row.values[a], row.values[b]
        if first is None or second is None:
            continue
        if first.mean < second.mean:
            a, b, first, second = b, a, second, first
        one, other = drawn[a], drawn[b]
        found = one.interval_above(other) if one and other else None
        yield LevelDifference(part, a, b, first.mean - second.mean, found, _paired(sums[a], sums[b]))


def _paired(a: Sums | None, b: Sums | None) -> bool:
    """Whether both were measured on the same examples."""
    return a is not None and b is not None and a.units == b.units


def shown(measure: Measure, value: Spread | None, t: Language) -> str:
    """``76.3% ± 0.4 (n = 3)``; the value alone where there is nothing to spread."""
    if value is None:
        return NONE
    text = measure.show(t, value.mean)
    if value.deviation is None or (value.deviation == 0 and not measure.better):
        return text  # of one run, or the same size in all
    deviation = t.figure(value.deviation, 1) if measure.show in (_PERCENT, _COUNT) else measure.show(t, value.deviation)
    return f"{text} ± {deviation} (n = {value.n})"


def _differing(results: Sequence[Result]) -> dict[str, tuple[Any, ...]]:
    """Settings that are not the same in all of these runs, apart from the level, where its data is, and the seed."""
    specs = [dict(flat(comparable(result.spec))) for result in results]
    keys = dict.fromkeys(key for spec in specs for key in spec)
    own = ("level", "data.source", "data.train", "data.eval", "training.seed")
    found = {
        key: tuple(spec.get(key) for spec in specs)
        for key in keys
        if key not in own and not key.startswith("reference")
    }
    return {key: values for key, values in found.items() if len({json.dumps(v) for v in values}) > 1}


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A spec's settings under their dotted keys, as ``--set`` takes them."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
