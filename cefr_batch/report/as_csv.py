"""A report as CSV: a row for each run, plain numbers under names with their units."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Mapping
from typing import Any

from cefr_batch.evaluation.statistics import Resampled, Sums
from cefr_batch.records.level_figures import LevelFigures, LevelGap, TextLevels, WrittenLevels
from cefr_batch.records.metrics import Metrics
from cefr_batch.report.collect import MISSING, Entry, Report, Result
from cefr_batch.report.compare import MEASURES
from cefr_batch.report.markdown import plain

_SCORES = [
    f"{when}_{kind}_{what}"
    for when in ("baseline", "tuned")
    for kind in ("full", "response", "seed_protocol", "seen", "unseen")
    for what in ("loss", "perplexity")
]
_LIMITS = [
    f"{kind}_95_{end}_percent" for kind in ("response_loss_reduction", "loss_reduction") for end in ("low", "high")
]
_MODELS = tuple(WrittenLevels.model_fields)
_OF_TEXTS = {  # of ``TextLevels``; each with its interval
    "mean_level": "mean",
    "level_rmse": "rmse",
    "within_half_level_percent": "within_half_percent",
    "within_one_level_percent": "within_one_percent",
}
_OF_GAP = {"level_difference": "mean_difference", "level_wasserstein": "wasserstein"}
_ENDS = {"": "value", "_95_low": "low", "_95_high": "high"}
_LEVELS = [
    *(f"{who}_level_sentences" for who in (*_MODELS, "references")),
    *(f"{who}_{name}{end}" for who in (*_MODELS, "references") for name in _OF_TEXTS for end in _ENDS),
    *(f"{who}_{name}{end}" for who in _MODELS for name in _OF_GAP for end in _ENDS),
]
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
_NUMBERS = ("seed", *(measure.key for measure in MEASURES), *_LIMITS, "eval_examples", "steps", "epochs")
_NUMBERS += ("samples_per_second", "best_step", "attempts", "repeated_steps", *_SCORES, *_LEVELS)
COLUMNS = (*_ABOUT, *_NUMBERS)


def report_csv(report: Report, language: str = "en") -> bytes:
    """RFC 4180; in Turkish as a Turkish spreadsheet program opens it: semicolons, decimal commas, a byte-order mark.

    Runs without figures have their state and empty cells; a level without a run has an empty run name too.
    """
    turkish = language == "tr"
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", delimiter=";" if turkish else ",")
    writer.writeheader()
    for entry in report.entries:
        for row in _rows(entry):
            writer.writerow({key: csv_cell(value, "," if turkish else ".") for key, value in row.items()})
    return out.getvalue().encode("utf-8-sig" if turkish else "utf-8")


def _rows(entry: Entry) -> list[dict[str, Any]]:
    rows = [_result(entry, result) for result in entry.results]
    rows += [{"run": p.run, "level": entry.level, "state": p.state.value, "reason": p.reason} for p in entry.passed]
    return rows or [{"level": entry.level, "state": MISSING}]


def _result(entry: Entry, result: Result) -> dict[str, Any]:
    m = result.metrics
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
        **dict(zip(_LIMITS, (*_limits(result.response_sums), *_limits(result.sums)), strict=True)),
        "eval_examples": m.examples_evaluated,
        "steps": m.train.steps,
        "epochs": m.train.epochs,
        "samples_per_second": m.train.samples_per_second,
        "best_step": m.best.step if m.best else None,
        "attempts": m.attempts,
        "repeated_steps": m.repeated_steps,
        **{name: _score(m, name) for name in _SCORES},
        **_level_columns(result.levels or WrittenLevels()),
    }


def _level_columns(levels: WrittenLevels) -> dict[str, float]:
    """What the models wrote greedily, and the level's own sentences."""
    columns: dict[str, float] = {}
    for model in _MODELS:
        if not (of_model := getattr(levels, model)):
            continue
        figures: LevelFigures = of_model.greedy
        for who, texts in ((model, figures.written), ("references", figures.references)):
            if texts:
                columns[f"{who}_level_sentences"] = texts.sentences
                columns |= _with_limits(who, _OF_TEXTS, texts)
        columns |= _with_limits(model, _OF_GAP, figures.gap) if figures.gap else {}
    return columns


def _with_limits(who: str, names: Mapping[str, str], figures: TextLevels | LevelGap) -> dict[str, float]:
    return {
        f"{who}_{name}{end}": getattr(getattr(figures, field), of)
        for name, field in names.items()
        for end, of in _ENDS.items()
    }


def _limits(sums: Sums | None) -> tuple[float | None, float | None]:
    """Of the reduction of the loss."""
    drawn = Resampled.of(sums) if sums else None
    found = drawn.interval() if drawn else None
    return (found.low, found.high) if found else (None, None)


def _score(metrics: Metrics, name: str) -> float | None:
    """``metrics.json``'s ``baseline.full.loss`` for ``baseline_full_loss``; None where there is none."""
    when, rest = name.split("_", 1)
    kind, what = rest.rsplit("_", 1)
    loss = getattr(getattr(metrics, when), kind)
    return getattr(loss, what) if loss else None


def csv_cell(value: Any, point: str = ".") -> Any:
    """A number as it is, but for its decimal point. Text that a spreadsheet would take for a formula gets a quote before it
    (OWASP, CSV injection)."""
    if isinstance(value, float):
        return str(value).replace(".", point)
    if value is None or isinstance(value, int):
        return value
    text = plain(str(value))
    return f"'{text}" if unicodedata.normalize("NFKC", text).startswith(("=", "+", "-", "@")) else text
