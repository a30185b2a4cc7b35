"""A report as one JSON document: the stored figures as they are, and the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cefr_batch import __version__
from cefr_batch.evaluation.bootstrap import Interval
from cefr_batch.evaluation.statistics import LossPart
from cefr_batch.records import layout
from cefr_batch.records.document import SCHEMA
from cefr_batch.records.report import ReportRecord
from cefr_batch.report.collect import Entry, Report, Result
from cefr_batch.report.compare import Comparison, LevelDifference, Row, compare
from cefr_batch.report.matrix import LossDifference, Matrix, MatrixCell, matrix
from cefr_batch.report.studies import ReportedStudy
from cefr_batch.report.verdicts import Card, cards
from cefr_batch.runner.study_results import study_figures


def report_json(report: Report) -> dict[str, Any]:
    """For ``store.to_json``. ``levels`` has an item for each level (or run) asked for, with figures or without; its
    ``result`` is the newest run that has some, its ``results`` are that run and those that repeat it."""
    comparison = compare(report)
    return {
        SCHEMA: ReportRecord.SCHEMA_VERSION,
        "made_by": __version__,
        "made_from": [asdict(item) for item in report.made_from],
        "store": report.store,
        "verdicts": [_verdict(card) for card in cards(report, comparison)],
        "levels": [_entry(report, entry) for entry in report.entries],
        "comparison": _comparison(comparison),
        **({"matrix": _matrix(crossed)} if (crossed := matrix(report)) else {}),
        **({"searches": [_search(study) for study in report.studies]} if report.studies else {}),
    }


def _search(study: ReportedStudy) -> dict[str, Any]:
    """``evaluation_set``: what the best trial's model, and its base model, came to there; ``value``: of the objective."""
    evaluated = {
        model: {
            "examples": one.task.examples,
            "value": study.value_of(one),
            "losses": one.losses.model_dump(mode="json"),
        }
        for model, one in study.evaluations.items()
    }
    return {**study_figures(study.state), "evaluation_set": evaluated}


def _matrix(found: Matrix) -> dict[str, Any]:
    """``cells`` of a row are in the order of ``columns``; None: not evaluated. Losses are in nats a token; ``to_own`` and
    ``to_base``: how far the loss is above that of the set's own model, and of the model before fine-tuning."""
    return {
        "columns": [column.label for column in found.columns],
        "sets": [column.origin for column in found.columns],
        "rows": [
            {"model": row.label, "base": row.base, "cells": [cell and _matrix_cell(cell) for cell in row.cells]}
            for row in found.rows
        ],
    }


def _matrix_cell(cell: MatrixCell) -> dict[str, Any]:
    mean = cell.levels.written.mean if cell.levels and cell.levels.written else None
    return {
        "own": cell.own,
        "examples": cell.examples,
        **{
            part: {
                "loss": one.loss,
                "to_own": _matrix_difference(one.to_own),
                "to_base": _matrix_difference(one.to_base),
            }
            for part, one in cell.parts.items()
        },
        "mean_level": mean and mean.model_dump(),
    }


def _matrix_difference(one: LossDifference | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {"nats": one.value, "interval_95_percent": _interval(one.interval), "examples": one.examples}


def _verdict(card: Card) -> dict[str, Any]:
    """Whether a level's model writes at its level, see ``Verdict``; ``nearest_level``: the other level that it writes at."""
    return {
        "label": card.label,
        "verdict": card.verdict.value,
        "nearest_level": card.nearest,
        "level_difference": card.figures and card.figures.gap and card.figures.gap.mean_difference.model_dump(),
        "response_loss_reduction_percent": card.gain and card.gain.percent,
        "response_loss_reduction_interval_95_percent": card.gain and _interval(card.gain.interval),
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
        "metrics": result.metrics.model_dump(mode="json", exclude_unset=True),
        "level_figures": result.levels and result.levels.model_dump(mode="json"),
        "objects": [{"key": layout.run_key(result.run, o.key), "size": o.size} for o in result.objects],
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    columns = zip(comparison.labels, comparison.entries, strict=True)
    return {
        "columns": [{"label": label, "runs": [r.run for r in entry.results]} for label, entry in columns],
        "rows": [_row(row) for row in comparison.rows],
        "response_loss_reduction_differences": _differences(comparison, "response"),
        "loss_reduction_differences": _differences(comparison, "full"),
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


def _differences(comparison: Comparison, part: LossPart) -> list[dict[str, Any]]:
    return [_difference(one, comparison.labels) for one in comparison.differences[part]]


def _difference(difference: LevelDifference, labels: Sequence[str]) -> dict[str, Any]:
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
