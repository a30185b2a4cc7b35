"""A report as CSV: a row for each run, plain numbers under names with their units."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Mapping
from typing import Any

from cefr_batch.report.collect import MISSING, Entry, Report, Result
from cefr_batch.report.compare import MEASURES
from cefr_batch.report.statistics import Resampled, interval
from cefr_batch.report.text import plain

_SCORES = [
    f"{when}_{kind}_{what}"
    for when in ("baseline", "tuned")
    for kind in ("full", "response", "seed_protocol", "seen", "unseen")
    for what in ("loss", "perplexity")
]
_LIMITS = ("loss_reduction_95_low_percent", "loss_reduction_95_high_percent")
_ABOUT = (
    "run",
    "level",
    "state",
    "reason",
    "complete_at",
    "backend",
    "model",
    "code_version",
    "image",
    "dataset_sha256",
)
_NUMBERS = (
    "seed",
    *(measure.key for measure in MEASURES),
    *_LIMITS,
    "eval_examples",
    "steps",
    "epochs",
    "samples_per_second",
    "best_step",
    "attempts",
    "repeated_steps",
    *_SCORES,
)
COLUMNS = (*_ABOUT, *_NUMBERS)


def report_csv(report: Report) -> str:
    """RFC 4180. Runs without figures have their state and empty cells; a level without a run has no name of one either."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="")
    writer.writeheader()
    for entry in report.entries:
        for row in _rows(entry):
            writer.writerow({key: _cell(value) for key, value in row.items()})
    return out.getvalue()


def _rows(entry: Entry) -> list[dict[str, Any]]:
    rows = [_result(entry, result) for result in entry.results]
    rows += [{"run": p.run, "level": entry.level, "state": p.state.value, "reason": p.reason} for p in entry.passed]
    return rows or [{"level": entry.level, "state": MISSING}]


def _result(entry: Entry, result: Result) -> dict[str, Any]:
    m = result.metrics
    drawn = Resampled.of(result.sums) if result.sums else None
    limits = interval(drawn.loss) if drawn else None
    return {
        "run": result.run,
        "level": entry.level,
        "state": "SUCCEEDED",
        "complete_at": result.complete_at,
        "backend": m.backend,
        "model": m.model,
        "code_version": result.code_version,
        "image": result.image,
        "dataset_sha256": result.dataset,
        "seed": result.seed,
        **{measure.key: measure.of(m) for measure in MEASURES},
        **(dict(zip(_LIMITS, (limits.low, limits.high), strict=True)) if limits else {}),
        "eval_examples": m.examples_evaluated,
        "steps": m.train.steps,
        "epochs": m.train.epochs,
        "samples_per_second": m.train.samples_per_second,
        "best_step": m.best.step if m.best else None,
        "attempts": m.attempts,
        "repeated_steps": m.repeated_steps,
        **{name: _score(result.raw, name) for name in _SCORES},
    }


def _score(raw: Mapping[str, Any], name: str) -> Any:
    """``metrics.json``'s ``baseline.full.loss`` for ``baseline_full_loss``; None where there is none."""
    when, rest = name.split("_", 1)
    kind, what = rest.rsplit("_", 1)
    return (raw[when].get(kind) or {}).get(what)


def _cell(value: Any) -> Any:
    """A number as it is. Text that a spreadsheet would take for a formula gets a quote before it (OWASP, CSV injection)."""
    if value is None or isinstance(value, (int, float)):
        return value
    text = plain(str(value))
    return f"'{text}" if unicodedata.normalize("NFKC", text).startswith(("=", "+", "-", "@")) else text
