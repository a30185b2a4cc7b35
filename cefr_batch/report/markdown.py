"""A report as Markdown (GitHub's), laid out to be read as plain text too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from cefr_batch.launch.base import State
from cefr_batch.launch.state import RunState
from cefr_batch.report.collect import MISSING, Entry, Report
from cefr_batch.report.compare import Comparison, Row, compare
from cefr_batch.report.sections import result_sections
from cefr_batch.report.text import NONE, code, count, escaped, figure, percent, plain, table

INTRO = """\
A small language model, fine-tuned once for each CEFR level, and measured on the level's evaluation examples before
(*baseline*) and after (*tuned*). *Loss* is the mean negative log-likelihood of a token, in nats; *perplexity* is e to
the power of the loss. Lower is better for both. A *reduction* is 1 − tuned / baseline. Three ways to count the tokens:

- **All tokens**: prompt and response, as in the evaluation loss that a trainer logs. Where nothing else is said, loss
  means this one.
- **Response only**: the tokens that the model has to write itself; the instruction's do not count.
- **Seed protocol**: as this project's first published table was computed (batches of 4, padding counted as tokens). For
  comparison with that table only."""


def report_markdown(report: Report) -> str:
    """The whole document; the same report always gives the same text."""
    comparison = compare(report)
    lines = ["# CEFR fine-tuning report", "", *INTRO.split("\n"), ""]
    lines += [f"Everything is kept in the store {code(report.store)}: the keys below are relative to it.", ""]
    lines += _overview(report)
    for entry in report.entries:
        lines += _level(report, entry)
    lines += _comparison(report, comparison)
    return "\n".join(lines)


def _overview(report: Report) -> list[str]:
    rows = []
    for entry in report.entries:
        loss, reduction = NONE, NONE
        if entry.result:
            m = entry.result.metrics
            loss = f"{figure(m.baseline.full.loss)} → {figure(m.tuned.full.loss)}"
            reduction = percent(m.reduction.full.loss_percent)
        newest = code(entry.newest) if entry.newest else NONE
        older = " (an older run)" if entry.result and entry.passed else ""
        rows.append((escaped(entry.level), newest, entry.state, loss + older, reduction))
    return table(("Level", "Newest run", "State", "Loss, baseline → tuned", "Reduction"), rows, numbers=(3, 4))


def _level(report: Report, entry: Entry) -> list[str]:
    label = report.label(entry)
    lines = [f"## {escaped(label)}", ""]
    if entry.state == MISSING:
        return [*lines, f"No run of this level yet: `cefr-batch submit --level {label}` starts one.", ""]
    for passed in entry.passed:
        lines += _passed(passed)
    if entry.result is None:
        return lines
    if entry.passed:
        lines += [f"The figures below are those of the older run {code(entry.result.run)}.", ""]
    return lines + result_sections(entry.result)


def _passed(state: RunState) -> list[str]:
    """A run without figures: its state and reason, and what its job printed last where that is known."""
    first, *rest = state.reason.split("\n")
    parts = [plain(first)] if first.strip() else []
    if state.state is State.RUNNING and state.stage:
        parts.append(
            f"stage {state.stage}" + (f", step {state.step} of {state.steps}" if state.step is not None else "")
        )
    why = f": {escaped('; '.join(parts))}" if parts else ""
    lines = [f"{code(state.run)} is **{state.state}**{why}", ""]
    return lines + [f"    {plain(line)}".rstrip() for line in rest] + [""] * bool(rest)


def _comparison(report: Report, comparison: Comparison) -> list[str]:
    labels = [escaped(label) for label in comparison.labels]
    lines = [f"## {' vs '.join(labels) if len(labels) > 1 else 'Comparison'}", ""]
    rows = [(row.measure.label, *_cells(row)) for row in comparison.rows]
    lines += table(("", *labels), rows, numbers=range(1, len(labels) + 1))
    if len(labels) > 1:
        lines += [
            "★ the best of its row. Each level is measured on its own evaluation examples, so the stars compare how",
            "much the levels gained, not the models on one test.",
            "",
        ]
    else:
        lines += [f"Only {labels[0]} has figures, so there is nothing to compare it with.", ""]
    return lines + _without_figures(report) + _partly_evaluated(comparison) + _differing(comparison)


def _cells(row: Row) -> Iterable[str]:
    for value, best in zip(row.values, row.best, strict=True):
        shown = NONE if value is None else row.measure.show(value)
        yield f"**{shown}** ★" if best else shown


def _without_figures(report: Report) -> list[str]:
    lines = []
    absent = [f"{escaped(report.label(e))} ({e.state})" for e in report.entries if not e.result]
    if absent:
        lines += [f"Without figures: {', '.join(absent)}.", ""]
    for entry in report.entries:
        if entry.result and entry.passed:
            lines += [f"{report.label(entry)} is shown by an older run: the newest is {entry.state}.", ""]
    return lines


def _partly_evaluated(comparison: Comparison) -> list[str]:
    parts = []
    for label, result in zip(comparison.labels, comparison.results, strict=True):
        used, there = result.metrics.examples_evaluated, result.metrics.data.eval_examples
        if used != there:
            parts.append(f"{escaped(label)} {count(used)} of {count(there)}")
    return [f"⚠ Not all evaluation examples were used: {', '.join(parts)}.", ""] if parts else []


def _differing(comparison: Comparison) -> list[str]:
    if not comparison.differing:
        return []
    lines = ["⚠ These runs were not made alike. Settings that differ:", ""]
    rows = [(code(key), *_settings(values)) for key, values in comparison.differing.items()]
    return lines + table(("Setting", *map(escaped, comparison.labels)), rows)


def _settings(values: Sequence[object]) -> Iterable[str]:
    return (NONE if value is None else code(json.dumps(value, ensure_ascii=False)) for value in values)
