"""The levels side by side: what is compared, which way is better, and who is best."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cefr_batch.report.collect import Report, Result
from cefr_batch.report.stored import MetricsFile
from cefr_batch.report.text import count, figure, percent, short_duration

Number = float | int | None


@dataclass(frozen=True)
class Measure:
    """A row of the comparison. ``better`` is None where more or less is no merit."""

    key: str
    label: str
    better: Literal["higher", "lower"] | None
    of: Callable[[MetricsFile], Number]
    show: Callable[[Any], str]


def _best_eval_loss(metrics: MetricsFile) -> Number:
    return metrics.best.eval_loss if metrics.best else None


MEASURES = (
    Measure("train_examples", "Train examples", None, lambda m: m.data.train_examples, count),
    Measure("unique_words", "Unique words", None, lambda m: m.data.unique_words, count),
    Measure("longest_example_tokens", "Longest example, tokens", None, lambda m: m.data.longest_example_tokens, count),
    Measure(
        "leaked_sentences_percent",
        "Evaluation sentences seen in training",
        None,
        lambda m: m.leakage.sentences_percent,
        percent,
    ),
    Measure("loss_reduction_percent", "Loss reduction", "higher", lambda m: m.reduction.full.loss_percent, percent),
    Measure(
        "perplexity_reduction_percent",
        "Perplexity reduction",
        "higher",
        lambda m: m.reduction.full.perplexity_percent,
        percent,
    ),
    Measure(
        "response_loss_reduction_percent",
        "Response loss reduction",
        "higher",
        lambda m: m.reduction.response.loss_percent,
        percent,
    ),
    Measure("training_seconds", "Training time", None, lambda m: m.train.duration_seconds, short_duration),
    Measure("final_train_loss", "Final train loss", "lower", lambda m: m.train.final_loss, figure),
    Measure("best_eval_loss", "Best eval loss", "lower", _best_eval_loss, figure),
    Measure(
        "tuned_response_perplexity",
        "Tuned response perplexity",
        "lower",
        lambda m: m.tuned.response.perplexity,
        figure,
    ),
)


@dataclass(frozen=True)
class Row:
    measure: Measure
    values: tuple[Number, ...]
    best: tuple[bool, ...]


@dataclass(frozen=True)
class Comparison:
    """The complete levels, a column each, and the settings in which they differ (a value a column)."""

    labels: tuple[str, ...]
    results: tuple[Result, ...]
    rows: tuple[Row, ...]
    differing: Mapping[str, tuple[Any, ...]]


def compare(report: Report) -> Comparison:
    columns = [(report.label(entry), entry.result) for entry in report.entries if entry.result]
    results = tuple(result for _, result in columns)
    rows = tuple(_row(measure, [measure.of(r.metrics) for r in results]) for measure in MEASURES)
    return Comparison(tuple(label for label, _ in columns), results, rows, _differing(results))


def _row(measure: Measure, values: Sequence[Number]) -> Row:
    return Row(measure, tuple(values), best_of(values, measure.better, measure.show))


def best_of(
    values: Sequence[Number], better: Literal["higher", "lower"] | None, show: Callable[[Any], str]
) -> tuple[bool, ...]:
    """Which values are the row's best. What looks the same is a tie, and all of a tie are marked; one value alone has
    nothing to be better than."""
    known = [v for v in values if v is not None]
    if better is None or len(known) < 2:
        return tuple(False for _ in values)
    best = show(max(known) if better == "higher" else min(known))
    return tuple(v is not None and show(v) == best for v in values)


def _differing(results: Sequence[Result]) -> dict[str, tuple[Any, ...]]:
    """Settings other than the level and its data's place that are not the same in all of these runs."""
    specs = [dict(flat(result.spec)) for result in results]
    keys = dict.fromkeys(key for spec in specs for key in spec)
    own = ("level", "data.source", "data.train", "data.eval")
    found = {key: tuple(spec.get(key) for spec in specs) for key in keys if key not in own}
    return {key: values for key, values in found.items() if len({json.dumps(v) for v in values}) > 1}


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A spec's settings under their dotted keys, as ``--set`` takes them."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
