"""A report as one JSON document: the stored figures as they are, and the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cefr_batch import layout
from cefr_batch.report.collect import Entry, Report, Result
from cefr_batch.report.compare import Comparison, Difference, Row, compare
from cefr_batch.report.statistics import Interval


def report_json(report: Report) -> dict[str, Any]:
    """For ``store.to_json``. ``levels`` has an item for each level (or run) asked for, with figures or without; its
    ``result`` is the newest run that has some, its ``results`` are that run and those that repeat it."""
    return {
        "store": report.store,
        "levels": [_entry(report, entry) for entry in report.entries],
        "comparison": _comparison(compare(report)),
    }


def _entry(report: Report, entry: Entry) -> dict[str, Any]:
    return {
        "label": report.label(entry),
        "level": entry.level,
        "newest_run": entry.newest,
        "state": entry.state,
        "reason": entry.reason,
        "runs_without_figures": [{"run": p.run, "state": p.state.value, "reason": p.reason} for p in entry.passed],
        "result": entry.result and _result(entry.result),
        "results": [{"run": result.run, "seed": result.seed} for result in entry.results],
    }


def _result(result: Result) -> dict[str, Any]:
    return {
        "run": result.run,
        "complete_at": result.complete_at,
        "code_version": result.code_version,
        "image": result.image,
        "dataset": f"{layout.DATASETS}/{result.dataset}",
        "spec": result.spec,
        "metrics": result.raw,
        "objects": [{"key": layout.run_key(result.run, o.key), "size": o.size} for o in result.objects],
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    columns = zip(comparison.labels, comparison.entries, strict=True)
    return {
        "columns": [{"label": label, "runs": [r.run for r in entry.results]} for label, entry in columns],
        "rows": [_row(row) for row in comparison.rows],
        "loss_reduction_differences": [_difference(d, comparison.labels) for d in comparison.differences],
        "differing_settings": {key: list(values) for key, values in comparison.differing.items()},
    }


def _row(row: Row) -> dict[str, Any]:
    """``values`` are means over a level's runs; ``intervals_95_percent`` come from the bootstrap."""
    measure = row.measure
    return {
        "key": measure.key,
        "label": measure.label,
        "better": measure.better,
        "values": [value and value.mean for value in row.values],
        "standard_deviations": [value and value.deviation for value in row.values],
        "runs": [value.n if value else 0 for value in row.values],
        "best": list(row.best),
        **({"intervals_95_percent": [_interval(i) for i in row.intervals]} if row.intervals else {}),
    }


def _difference(difference: Difference, labels: Sequence[str]) -> dict[str, Any]:
    return {
        "higher": labels[difference.higher],
        "lower": labels[difference.lower],
        "percentage_points": difference.points,
        "interval_95_percent": _interval(difference.interval),
        "paired": difference.paired,
        "exceeds_noise": difference.exceeds_noise,
    }


def _interval(found: Interval | None) -> dict[str, float] | None:
    return asdict(found) if found else None
