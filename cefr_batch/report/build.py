"""``Report`` → ``Document``: the sections of a report in their order, in a language."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import fmean

from cefr_batch.launch.base import State
from cefr_batch.launch.state import RunState
from cefr_batch.report.collect import MISSING, Entry, Report
from cefr_batch.report.compare import MEASURES, Comparison, Difference, Row, compare, shown, spread
from cefr_batch.report.curves import grid, overlay
from cefr_batch.report.document import (
    Best,
    Block,
    Bullets,
    Code,
    Document,
    Inline,
    Lines,
    Link,
    Paragraph,
    Section,
    Strong,
    Table,
    inline,
    joined,
    plain_text,
)
from cefr_batch.report.language import N_, NONE, Language
from cefr_batch.report.ratings import ratings_sections
from cefr_batch.report.reading import reading
from cefr_batch.report.sections import run_sections

STATES = {  # as `cefr-batch status` names them, and MISSING
    "SUCCEEDED": N_("complete"),
    "FAILED": N_("failed"),
    "RUNNING": N_("running"),
    "PENDING": N_("pending"),
    "PREEMPTED": N_("stopped"),
    "CANCELLED": N_("cancelled"),
    "UNKNOWN": N_("unknown"),
    MISSING: N_("missing"),
}


def build(report: Report, t: Language) -> Document:
    """The same report always gives the same document."""
    comparison = compare(report)
    keys = {id(entry): f"level-{number}" for number, entry in enumerate(report.entries, 1)}
    blocks: list[Block] = [
        *_intro(report, t),
        Section(t("Overview"), (_overview(report, keys, t),), "overview"),
        _comparison_section(report, comparison, t),
        *(_level(report, entry, keys[id(entry)], t) for entry in report.entries),
        *ratings_sections(report, t),
    ]
    labels = tuple(report.label(entry) for entry in report.entries)
    words = {key: t.text(message) for key, message in WORDS.items()}
    return Document(t.text(N_("CEFR fine-tuning results")), t.code, tuple(blocks), labels, words)


WORDS = {  # of the HTML page
    "contents": N_("Contents"),
    "show": N_("Levels shown"),
    "best": N_("best"),
    "warning": N_("Warning"),
    "no_data": N_("no data"),
    "sort": N_("Sort by this column"),
    "hover": N_("Move over a curve to read its values."),
}


def _intro(report: Report, t: Language) -> list[Block]:
    ways = (
        t(
            "**All tokens**: prompt and response, as in the evaluation loss that a trainer logs. Where nothing else is "
            "said, loss means this one."
        ),
        t("**Response only**: the tokens that the model has to write itself; the instruction's do not count."),
        t(
            "**Seed protocol**: as this project's first published table was computed (batches of 4, padding counted as "
            "tokens). For comparison with that table only."
        ),
    )
    what = t(
        "A small language model, fine-tuned once for each CEFR level, and measured on the level's evaluation examples "
        "before (baseline) and after (tuned). **Loss** is the mean negative log-likelihood of a token, in nats; "
        "**perplexity** is e to the power of the loss. Lower is better for both. A **reduction** is 1 − tuned / "
        "baseline. Three ways to count the tokens:"
    )
    where = t("Everything is kept in the store {store}: the keys below are relative to it.", store=Code(report.store))
    return [Paragraph(what), Bullets(ways), Paragraph(where)]


def state_word(state: str, t: Language) -> Inline:
    return t(STATES[state])


def _overview(report: Report, keys: dict[int, str], t: Language) -> Table:
    rows, sort = [], []
    for entry in report.entries:
        cells, values = _overview_row(report, entry, keys[id(entry)], t)
        rows.append(cells)
        sort.append(values)
    header = (t("Level"), t("Newest run"), t("State"), t("Baseline loss"), t("Tuned loss"), t("Loss reduction"))
    labels = tuple(report.label(entry) for entry in report.entries)
    return Table(t("Levels and their newest runs"), header, tuple(rows), frozenset((3, 4, 5)), (), labels, tuple(sort))


def _overview_row(
    report: Report, entry: Entry, key: str, t: Language
) -> tuple[tuple[Inline, ...], tuple[float | str | None, ...]]:
    label = Link(inline(entry.level), key)
    state = state_word(entry.state, t)
    if entry.older:
        state = (*state, *inline(" "), *t("(figures of an older run)"))
    before = after = fall = None
    if entry.result:
        metrics = [result.metrics for result in entry.results]
        before, after = (fmean(getattr(m, when).full.loss for m in metrics) for when in ("baseline", "tuned"))
        fall = fmean(m.reduction.full.loss_percent for m in metrics)
    run = inline(Code(entry.newest)) if entry.newest else inline(NONE)
    figures = (inline(t.figure(before)), inline(t.figure(after)), inline(t.percent(fall)))
    values = (entry.level, entry.newest, plain_text(state), before, after, fall)
    return (inline(label), run, state, *figures), values


def _level(report: Report, entry: Entry, key: str, t: Language) -> Section:
    label = report.label(entry)
    blocks: list[Block] = []
    if entry.state == MISSING:
        blocks.append(
            Paragraph(t("No run of this level yet: `cefr-batch submit --level {level}` starts one.", level=label))
        )
    for passed in entry.passed:
        blocks += _passed(passed, t)
    if entry.result:
        if entry.older:
            blocks.append(
                Paragraph(t("The figures below are those of the older run {run}.", run=Code(entry.result.run)))
            )
        if len(entry.results) > 1:
            blocks.append(_repetitions(entry, key, t))
        blocks += run_sections(entry.result, t, key, label)
    return Section(inline(label), tuple(blocks), key, label)


def _passed(state: RunState, t: Language) -> list[Block]:
    """A run without figures: its state and reason, and what its job printed last where that is known."""
    first, *rest = state.reason.split("\n")
    parts: list[Inline] = [inline(first)] if first.strip() else []
    if state.state is State.RUNNING and state.stage:
        parts.append(t("stage {stage}", stage=Code(state.stage)))
        if state.step is not None:
            parts.append(t("step {step} of {steps}", step=t.count(state.step), steps=t.count(state.steps or 0)))
    word = Strong(state_word(state.state.value, t))
    why = (*inline(": "), *joined(parts, "; ")) if parts else ()
    about = (*t("{run}: {state}", run=Code(state.run), state=word), *why)
    return [Paragraph(about, "warning"), *([Lines(tuple(rest))] if rest else [])]


REPEATED = ("loss_reduction_percent", "perplexity_reduction_percent", "final_train_loss", "best_eval_loss")


def _repetitions(entry: Entry, key: str, t: Language) -> Section:
    """Runs of one level with different seeds."""
    measures = [measure for measure in MEASURES if measure.key in REPEATED]
    rows = [
        (
            inline(Code(result.run)),
            inline(str(result.seed)),
            *(inline(shown(m, spread(m, [result]), t)) for m in measures),
        )
        for result in entry.results
    ]
    whole = [inline(Strong(inline(shown(m, spread(m, entry.results), t)))) for m in measures]
    rows.append((t("mean ± standard deviation"), inline(NONE), *whole))
    header = (t("Run"), t("Seed"), *(t(m.label) for m in measures))
    table = Table(t("Runs that differ in their seed alone"), header, tuple(rows), frozenset(range(1, len(header))))
    text = t(
        "{n} runs of this level differ in nothing but the seed. The sections after this one show the newest.",
        n=t.count(len(entry.results)),
    )
    return Section(t("Repeated runs"), (Paragraph(text), table), f"{key}-repeated")


def _comparison_section(report: Report, comparison: Comparison, t: Language) -> Section:
    labels = comparison.labels
    title = t("{levels}: comparison", levels=" vs ".join(labels)) if len(labels) > 1 else t("Comparison")
    blocks: list[Block] = [_comparison_table(comparison, t)]
    blocks.append(
        Paragraph(
            t("★ the best of its row.")
            if len(labels) > 1
            else t("Only {level} has figures, so there is nothing to compare it with.", level=labels[0])
        )
    )
    blocks += [*_without_figures(report, t), *_partly_evaluated(comparison, t)]
    read = Section(t("What the figures say"), (Bullets(tuple(reading(comparison, t))),), "reading")
    curves: tuple[Block, ...] = (grid(comparison, t), overlay(comparison, t)) if len(labels) > 1 else ()
    parts: list[Block] = [read, *([Section(t("Curves of all levels"), curves, "curves")] if curves else [])]
    parts += [*_noise(comparison, t), *_published(comparison, t), *_differing(comparison, t)]
    return Section(title, (*blocks, *parts), "comparison")


def _comparison_table(comparison: Comparison, t: Language) -> Table:
    rows: list[tuple[Inline, ...]] = []
    for row in comparison.rows:
        rows.append((t(row.measure.label), *_cells(row, t)))
        if any(row.intervals):
            limits = [f"{t.percent(i.low)} … {t.percent(i.high)}" if i else NONE for i in row.intervals]
            rows.append((t("– its 95% interval"), *map(inline, limits)))
    header = (t("Metric"), *map(inline, comparison.labels))
    numbers = frozenset(range(1, len(header)))
    return Table(t("The levels side by side"), header, tuple(rows), numbers, ("", *comparison.labels))


def _cells(row: Row, t: Language) -> list[Inline]:
    cells = [inline(shown(row.measure, value, t)) for value in row.values]
    return [inline(Best(cell)) if best else cell for cell, best in zip(cells, row.best, strict=True)]


def _without_figures(report: Report, t: Language) -> list[Block]:
    absent = [
        joined((report.label(e), (*inline("("), *state_word(e.state, t), *inline(")"))), " ")
        for e in report.entries
        if not e.results
    ]
    blocks: list[Block] = [Paragraph(t("Without figures: {levels}.", levels=joined(absent)))] if absent else []
    for entry in report.entries:
        if entry.older:
            blocks.append(
                Paragraph(
                    t(
                        "{level} is shown by an older run: the newest is {state}.",
                        level=report.label(entry),
                        state=state_word(entry.state, t),
                    )
                )
            )
    return blocks


def _partly_evaluated(comparison: Comparison, t: Language) -> list[Block]:
    parts = []
    for label, result in zip(comparison.labels, comparison.results, strict=True):
        used, there = result.metrics.examples_evaluated, result.metrics.data.eval_examples
        if used != there:
            parts.append(t("{level} {used} of {all}", level=label, used=t.count(used), all=t.count(there)))
    message = t("Not all evaluation examples were used: {levels}.", levels=joined(parts))
    return [Paragraph(message, "warning")] if parts else []


def _noise(comparison: Comparison, t: Language) -> list[Block]:
    """The differences between levels with their intervals."""
    if not any(d.interval for d in comparison.differences):
        return []
    rows = tuple(_difference(d, comparison, t) for d in comparison.differences)
    header = (t("Difference of loss reductions"), t("Points"), t("95% interval"), t("Examples"), t("Exceeds noise"))
    how = t(
        "Percentile bootstrap over evaluation examples (Efron and Tibshirani 1993; for two runs on the same examples "
        "paired, as Koehn 2004): 10,000 resamples, loss as a ratio of sums. The intervals hold for each difference by "
        "itself, and say nothing of other seeds or other data."
    )
    table = Table(t("Differences between loss reductions, in percentage points"), header, rows, frozenset((1, 2)))
    return [Section(t("Which differences exceed noise"), (Paragraph(how), table), "noise")]


def _difference(d: Difference, comparison: Comparison, t: Language) -> tuple[Inline, ...]:
    limits = f"{t.points(d.interval.low)} … {t.points(d.interval.high)}" if d.interval else NONE
    verdict = {True: t("yes"), False: t("no"), None: t("not known")}[d.exceeds_noise]
    examples = t("the same") if d.paired else t("different")
    pair = t("{higher} − {lower}", higher=comparison.labels[d.higher], lower=comparison.labels[d.lower])
    return pair, inline(t.points(d.points)), inline(limits), examples, verdict


def _published(comparison: Comparison, t: Language) -> list[Block]:
    """The figures that the levels' specs name as published, beside the runs' own."""
    columns = [(i, published) for i, result in enumerate(comparison.results) if (published := result.published)]
    figures: list[dict[str, str]] = [dict(published.figures.items()) for _, published in columns]
    if not columns:
        return []
    rows: list[tuple[Inline, ...]] = []
    for row in comparison.rows:
        if any(row.measure.key in given for given in figures):
            cells: list[Inline] = []
            for (i, _), given in zip(columns, figures, strict=True):
                own, other = shown(row.measure, row.values[i], t), published_figure(row, given.get(row.measure.key), t)
                cells += [inline(own), inline(other)]
            rows.append((t(row.measure.label), *cells))
    header = [t("Metric")]
    for i, _ in columns:
        header += [inline(comparison.labels[i]), t("{level}, published", level=comparison.labels[i])]
    sources = dict.fromkeys(published.source for _, published in columns)
    note = t(
        "Published in: {sources}. Model, data and machine may differ from these runs'.",
        sources=joined(list(sources), "; "),
    )
    of_columns = ("", *(comparison.labels[i] for i, _ in columns for _ in range(2)))
    table = Table(
        t("These runs and the published figures"),
        tuple(header),
        tuple(rows),
        frozenset(range(1, len(header))),
        of_columns,
    )
    return [Section(t("Beside published figures"), (Paragraph(note), table), "published")]


def published_figure(row: Row, given: str | None, t: Language) -> str:
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


def _differing(comparison: Comparison, t: Language) -> list[Block]:
    if not comparison.differing:
        return []
    rows = [(inline(Code(key)), *_settings(values)) for key, values in comparison.differing.items()]
    header = (t("Setting"), *map(inline, comparison.labels))
    note = Paragraph(t("These runs were not made alike."), "warning")
    table = Table(t("Settings that differ"), header, tuple(rows), frozenset(), ("", *comparison.labels))
    return [Section(t("Settings that differ"), (note, table), "differing")]


def _settings(values: Sequence[object]) -> list[Inline]:
    return [inline(NONE) if value is None else inline(Code(json.dumps(value, ensure_ascii=False))) for value in values]
