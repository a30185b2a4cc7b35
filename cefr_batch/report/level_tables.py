"""What a report says of all its levels: the tables, and the phrases that depend on their runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from statistics import fmean

from cefr_batch.config.schema import ReferenceSpec
from cefr_batch.i18n.language import N_, NONE
from cefr_batch.records.metrics import Metrics
from cefr_batch.report.blocks import Blocks, Table
from cefr_batch.report.collect import MISSING, Entry, Report
from cefr_batch.report.compare import MEASURES, Comparison, LevelDifference, Row, shown, spread
from cefr_batch.report.markdown import Inline, Markdown, ReportLanguage, code, joined, strong
from cefr_batch.runner.status import RunState
from cefr_batch.schedulers.base import State

STATES = {  # as `cefr-batch status` names them, and MISSING
    "SUCCEEDED": N_("complete"),
    "FAILED": N_("failed"),
    "RUNNING": N_("running"),
    "PENDING": N_("pending"),
    "PREEMPTED": N_("stopped"),
    "PAUSED": N_("paused"),
    "CANCELLED": N_("cancelled"),
    "UNKNOWN": N_("unknown"),
    MISSING: N_("missing"),
}
REPEATED = (
    "response_loss_reduction_percent",
    "loss_reduction_percent",
    "perplexity_reduction_percent",
    "final_train_loss",
    "best_eval_loss",
)
_OVERVIEW: tuple[Callable[[Metrics], float], ...] = (
    lambda m: m.baseline.response.loss,
    lambda m: m.tuned.response.loss,
    lambda m: m.reduction.response.loss_percent,
    lambda m: m.reduction.full.loss_percent,
)


def state_word(state: str, t: ReportLanguage) -> Markdown:
    """A state in a word."""
    return t(STATES[state])


def overview(report: Report, t: ReportLanguage, blocks: Blocks) -> Table:
    """The levels, their newest runs and what fine-tuning did to the loss."""
    rows, sort = [], []
    for number, entry in enumerate(report.entries, 1):
        state = state_word(entry.state, t)
        if entry.older:
            state = Markdown("{} {}").format(state, t("(figures of an older run)"))
        metrics = [result.metrics for result in entry.results]
        figures = [fmean(of(m) for m in metrics) if metrics else None for of in _OVERVIEW]
        level = blocks.link(entry.level, f"level-{number}")
        run = code(entry.newest) if entry.newest else NONE
        rows.append((level, run, state, *map(t.figure, figures[:2]), *map(t.percent, figures[2:])))
        sort.append((entry.level, entry.newest, state, *figures))
    header = (
        t("Level"),
        t("Newest run"),
        t("State"),
        t("Loss over the response, baseline"),
        t("Tuned"),
        t("Loss reduction, response only"),
        t("Loss reduction, all tokens"),
    )
    labels = [report.label(entry) for entry in report.entries]
    return Table(t("Levels and their newest runs"), header, rows, range(3, 7), of_rows=labels, sort=sort)


def side_by_side(comparison: Comparison, t: ReportLanguage) -> Table:
    """Every measure of the comparison, a column for each level."""
    rows: list[list[Inline]] = []
    for row in comparison.rows:
        cells = [shown(row.measure, value, t) for value in row.values]
        marked = [Markdown("**{}** ★").format(c) if best else c for c, best in zip(cells, row.best, strict=True)]
        rows.append([t(row.measure.label), *marked])
        if any(row.intervals):
            limits = [f"{t.percent(i.low)} … {t.percent(i.high)}" if i else NONE for i in row.intervals]
            rows.append([t("– its 95% interval"), *limits])
    columns = ("", *comparison.labels)
    header = (t("Metric"), *comparison.labels)
    return Table(t("The levels side by side"), header, rows, range(1, len(header)), columns)


def without_figures(report: Report, t: ReportLanguage) -> list[Inline]:
    """The levels that have no figures, with their states."""
    return [
        Markdown("{} ({})").format(report.label(entry), state_word(entry.state, t))
        for entry in report.entries
        if not entry.results
    ]


def partly_evaluated(comparison: Comparison, t: ReportLanguage) -> list[Inline]:
    """The levels measured on a part of their evaluation examples."""
    parts: list[Inline] = []
    for label, result in zip(comparison.labels, comparison.results, strict=True):
        used, there = result.metrics.examples_evaluated, result.metrics.data.eval_examples
        if used != there:
            parts.append(t("{level}: {used} of {all}", level=label, used=t.count(used), all=t.count(there)))
    return parts


def differences(comparison: Comparison, t: ReportLanguage) -> Table:
    """The differences between levels with their intervals."""
    found = [d for part in comparison.differences.values() for d in part]
    header = (
        t("Difference of loss reductions"),
        t("Loss over"),
        t("Points"),
        t("95% interval"),
        t("Examples"),
        t("Exceeds noise"),
    )
    rows = [_difference(d, comparison, t) for d in found]
    return Table(t("Differences between loss reductions, in percentage points"), header, rows, (2, 3))


def _difference(d: LevelDifference, comparison: Comparison, t: ReportLanguage) -> tuple[Inline, ...]:
    limits = f"{t.points(d.interval.low)} … {t.points(d.interval.high)}" if d.interval else NONE
    verdict = {True: t("yes"), False: t("no"), None: t("not known")}[d.exceeds_noise]
    examples = t("the same") if d.paired else t("different")
    part = {"response": t("Response only"), "full": t("All tokens")}[d.part]
    pair = t("{higher} − {lower}", higher=comparison.labels[d.higher], lower=comparison.labels[d.lower])
    return pair, part, t.points(d.points), limits, examples, verdict


def _with_published(comparison: Comparison) -> list[tuple[int, ReferenceSpec]]:
    """The columns whose specs name published figures."""
    return [(i, published) for i, result in enumerate(comparison.results) if (published := result.published)]


def sources(comparison: Comparison) -> list[str]:
    """Where the figures were published."""
    return list(dict.fromkeys(published.source for _, published in _with_published(comparison)))


def published(comparison: Comparison, t: ReportLanguage) -> Table:
    """The figures that the levels' specs name as published, beside the runs' own."""
    columns = [
        (i, {str(key): given for key, given in reference.figures.items()})
        for i, reference in _with_published(comparison)
    ]
    rows: list[list[Inline]] = []
    for row in comparison.rows:
        key = row.measure.key
        if any(key in figures for _, figures in columns):
            cells = [
                cell
                for i, figures in columns
                for cell in (shown(row.measure, row.values[i], t), published_figure(row, figures.get(key), t))
            ]
            rows.append([t(row.measure.label), *cells])
    labels = [comparison.labels[i] for i, _ in columns]
    header = [t("Metric"), *(name for label in labels for name in (label, t("{level}, published", level=label)))]
    of_columns = ("", *(label for label in labels for _ in range(2)))
    return Table(t("These runs and the published figures"), header, rows, range(1, len(header)), of_columns)


def published_figure(row: Row, given: str | None, t: ReportLanguage) -> str:
    """With the digits that were published: ``~65%``, ``0.34``, ``~5 min``."""
    if given is None:
        return NONE
    number = given.removeprefix("~")
    value, digits = float(number), len(number.partition(".")[2])
    about = "~" if given.startswith("~") else ""
    if row.measure.key == "training_seconds":
        return about + t.short_duration(value)
    show = t.percent if row.measure.key.endswith("_percent") else t.figure
    return about + show(value, digits)


def differing(comparison: Comparison, t: ReportLanguage) -> Table:
    """The settings that are not the same in all of the runs compared."""
    rows = [
        (code(key), *(NONE if v is None else code(json.dumps(v, ensure_ascii=False)) for v in values))
        for key, values in comparison.differing.items()
    ]
    header = (t("Setting"), *comparison.labels)
    return Table(t("Settings that differ"), header, rows, of_columns=("", *comparison.labels))


def without_result(state: RunState, t: ReportLanguage) -> Markdown:
    """A run without figures: its state, the first line of the reason and how far it is."""
    parts: list[Inline] = [line for line in state.reason.split("\n")[:1] if line.strip()]
    if state.state is State.RUNNING and state.stage:
        parts.append(t("stage {stage}", stage=code(state.stage)))
        if state.step is not None:
            parts.append(t("step {step} of {steps}", step=t.count(state.step), steps=t.count(state.steps or 0)))
    word = strong(state_word(state.state.value, t))
    about = t("{run}: {state}", run=code(state.run), state=word)
    return about + Markdown(": ") + joined(parts, "; ") if parts else about


def log_lines(state: RunState) -> list[str]:
    """What the job of a run without figures printed last, where that is known."""
    return state.reason.split("\n")[1:]


def repeated(entry: Entry, t: ReportLanguage) -> Table:
    """Runs of one level with different random seeds, and their mean."""
    measures = [measure for measure in MEASURES if measure.key in REPEATED]
    rows: list[tuple[Inline, ...]] = [
        (code(result.run), str(result.seed), *(shown(m, spread(m, [result]), t) for m in measures))
        for result in entry.results
    ]
    whole = (strong(shown(m, spread(m, entry.results), t)) for m in measures)
    rows.append((t("mean ± standard deviation"), NONE, *whole))
    header = (t("Run"), t("Seed"), *(t(m.label) for m in measures))
    return Table(t("Runs that differ only in their random seed"), header, rows, range(1, len(header)))
