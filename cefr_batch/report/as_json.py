"""A report as one JSON document: the stored figures as they are, and the comparison."""

from __future__ import annotations

from typing import Any

from cefr_batch import layout
from cefr_batch.report.collect import Entry, Report, Result
from cefr_batch.report.compare import Comparison, Row, compare


def report_json(report: Report) -> dict[str, Any]:
    """For ``store.to_json``. ``levels`` has an item for each level (or run) asked for, with figures or without."""
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
    }


def _result(result: Result) -> dict[str, Any]:
    return {
        "run": result.run,
        "complete_at": result.complete_at,
        "dataset": f"{layout.DATASETS}/{result.dataset}",
        "spec": result.spec,
        "metrics": result.raw,
        "objects": [{"key": layout.run_key(result.run, o.key), "size": o.size} for o in result.objects],
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "columns": [
            {"label": label, "run": r.run} for label, r in zip(comparison.labels, comparison.results, strict=True)
        ],
        "rows": [_row(row) for row in comparison.rows],
        "differing_settings": {key: list(values) for key, values in comparison.differing.items()},
    }


def _row(row: Row) -> dict[str, Any]:
    measure = row.measure
    return {
        "key": measure.key,
        "label": measure.label,
        "better": measure.better,
        "values": list(row.values),
        "best": list(row.best),
    }
