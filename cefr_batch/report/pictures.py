"""The pictures of a report, in its language. matplotlib loads when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from cefr_batch.i18n.language import NONE, Language
from cefr_batch.records.level_figures import BINS_PER_LEVEL, SCALE, LevelFigures, TextLevels
from cefr_batch.report.collect import Report, Result
from cefr_batch.report.compare import compare
from cefr_batch.report.curves import PICTURES
from cefr_batch.report.markdown import ReportLanguage, plain
from cefr_batch.report.matrix import Matrix, matrix
from cefr_batch.report.matrix_tables import DIGITS, heat, model_name
from cefr_batch.report.measured_tables import heat_rows, measured
from cefr_batch.report.run_tables import settings_of
from cefr_batch.training.drawing import new_figure, own_style, saved
from cefr_batch.training.plots import (
    COLOURS,
    EVAL,
    INCHES,
    MARKERS,
    TRAIN,
    Curve,
    add_curve,
    add_untrained,
    mark_best,
    untrained_loss,
    write_no_data,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MODEL, _OWN = "#0072B2", "#D55E00"  # Okabe & Ito, as in the other figures


def pictures(report: Report, language: str) -> dict[str, bytes]:
    """Files in each of ``drawing.FORMATS``, by name: the measured levels, every model on every level's examples, and the
    curves of all levels where there are several. The same report gives the same bytes."""
    t, comparison, crossed = ReportLanguage(language), compare(report), matrix(report)
    with own_style():
        figures: dict[str, Figure] = {}
        if list(heat_rows(report, t)):
            texts = {label: one.tuned.greedy for label, one in measured(report) if one.tuned}
            figures |= {PICTURES.distributions: level_distributions(texts, t), PICTURES.heat_map: _heat_map(report, t)}
        if crossed:
            figures[PICTURES.crossed] = _matrix(crossed, t)
        if len(comparison.labels) > 1:
            levels = dict(zip(comparison.labels, comparison.results, strict=True))
            figures |= {PICTURES.grid: level_grid(levels, t), PICTURES.overlay: level_overlay(levels, t)}
        return {file: data for name, figure in figures.items() for file, data in saved(name, figure).items()}


def _matrix(found: Matrix, t: ReportLanguage) -> Figure:
    """As ``matrix_tables.losses``, of the responses."""
    shades = np.array([[np.nan if one is None else one for one in row] for row in heat(found, "response")])
    figure = new_figure(1.8 + 1.1 * len(found.columns), 1.2 + 0.42 * len(found.rows))
    axes = figure.add_subplot()
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1.6, aspect="auto")
    for (row, column), _ in np.ndenumerate(shades):
        cell = found.rows[row].cells[column]
        weight = "bold" if cell and cell.own else "normal"
        text = NONE if cell is None else t.figure(cell.response.loss, DIGITS)
        axes.text(column, row, text, ha="center", va="center", fontsize="small", weight=weight)
    axes.set_xticks(range(len(found.columns)), [column.label for column in found.columns], parse_math=False)
    axes.set_yticks(range(len(found.rows)), [plain(model_name(row, t)) for row in found.rows], parse_math=False)
    axes.set_xlabel(t.text("examples of"))
    axes.set_title(t.text("Response loss"), fontsize="medium")
    return figure


def level_distributions(levels: Mapping[str, LevelFigures], t: Language) -> Figure:
    """A chart for each level, all with one scale."""
    columns = min(3, len(levels))
    rows = math.ceil(len(levels) / columns)
    figure = new_figure(3.5 * columns, 0.5 + 2.4 * rows)
    charts = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for (label, figures), axes in zip(levels.items(), charts, strict=False):  # charts last: it then keeps the rest
        axes.set_title(label, fontsize="medium", parse_math=False)
        _steps(axes, figures.written, t.text("the model's sentences"), colour=_MODEL, fill=True)
        _steps(axes, figures.references, t.text("the level's own sentences"), colour=_OWN, fill=False)
        axes.set_xlim(1, len(SCALE))
        axes.set_xticks(range(1, len(SCALE) + 1), SCALE)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelbottom=True)
    for axes in list(charts):
        axes.set_visible(False)
    charted = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes]
    entries = {name: handle for one in charted for handle, name in one}  # a level may lack one of the two
    # At the top: below, it would be drawn over the title of the axis. Two entries are wider than one chart.
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=min(2, columns), frameon=False)
    figure.supxlabel(t.text("estimated level"), fontsize="medium")
    figure.supylabel(t.text("share of the sentences, %"), fontsize="medium")
    return figure


def _steps(axes: Axes, texts: TextLevels | None, name: str, *, colour: str, fill: bool) -> None:
    if texts is None:
        return
    edges = 1 + np.arange(len(texts.histogram) + 1) / BINS_PER_LEVEL
    shares = 100 * np.array(texts.histogram) / texts.sentences
    look = {"alpha": 0.45} if fill else {"linewidth": 1.8, "linestyle": "--"}
    axes.stairs(shares, edges, fill=fill, color=colour, label=name, **look)


def _heat_map(report: Report, t: ReportLanguage) -> Figure:
    """As ``measured_tables.heat_map``."""
    rows = list(heat_rows(report, t))
    shares = np.array([[texts.level_percent[level].value for level in SCALE] for _, _, texts in rows])
    figure = new_figure(6.5, 1.2 + 0.38 * len(rows))
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=160, aspect="auto")  # 160: black text stays readable on 100
    for (row, column), share in np.ndenumerate(shares):
        axes.text(column, row, t.percent(float(share)), ha="center", va="center", fontsize="small")
    axes.set_xticks(range(len(SCALE)), SCALE)
    axes.set_yticks(range(len(rows)), [f"{label}, {name}" for label, name, _ in rows], parse_math=False)
    axes.set_xlabel(t.text("estimated level"))
    for boundary in range(1, len(rows)):
        if rows[boundary][0] != rows[boundary - 1][0]:
            axes.axhline(boundary - 0.5, color="black", linewidth=0.8)
    return figure


def level_grid(levels: Mapping[str, Result], t: Language) -> Figure:
    """A chart for each level, all with one scale."""
    columns = min(3, len(levels))
    rows = math.ceil(len(levels) / columns)
    figure = new_figure(3.5 * columns, 3 * rows)
    shared = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    charts = shared.flat
    train, evaluation = replace(TRAIN, label=t.text("training loss")), replace(EVAL, label=t.text("evaluation loss"))
    for (label, result), axes in zip(levels.items(), charts, strict=False):
        m = result.metrics
        axes.set_title(label, fontsize="medium", parse_math=False)
        drawn = [add_curve(axes, curve, m.log) for curve in (train, evaluation)]
        if any(drawn):
            add_untrained(axes, _untrained(result), t.text("untrained model"))
        if m.best:
            mark_best(axes, m.best, t.text("best checkpoint"))
        axes.grid(alpha=0.3)
        if all(drawn):
            axes.legend(fontsize="small")
    _in_language(shared[0, 0], t)
    shared[0, 0].set(xlim=(0, None), ylim=(0, None))  # after all curves: a limit that is set no longer grows
    for axes in list(charts):
        axes.set_visible(False)
    figure.supxlabel(t.text("optimizer step"), fontsize="medium")
    figure.supylabel(t.text("loss (nats per token)"), fontsize="medium")
    return figure


def level_overlay(levels: Mapping[str, Result], t: Language) -> Figure:
    """The evaluation losses in one chart, each beside that of the untrained model."""
    figure = new_figure(*INCHES)
    axes = figure.add_subplot()
    axes.set_title(t.text("Evaluation loss by level"), fontsize="medium")
    axes.set_xlabel(t.text("optimizer step"))
    axes.set_ylabel(t.text("loss (nats per token)"))
    drawn = False
    for (label, result), colour, marker in zip(levels.items(), cycle(COLOURS), cycle(MARKERS), strict=False):
        curve = Curve("eval_loss", label.replace("$", r"\$"), colour, "-", marker)
        if add_curve(axes, curve, result.metrics.log):
            name = "" if drawn else t.text("untrained model")
            add_untrained(axes, _untrained(result), name, colour)
            drawn = True
        if result.metrics.best:
            mark_best(axes, result.metrics.best)
    if not drawn:
        write_no_data(axes, t.text("no data"))
        return figure
    _in_language(axes, t)
    axes.grid(alpha=0.3)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def _untrained(result: Result) -> float:
    return untrained_loss(result.metrics.baseline, settings_of(result).get("training.loss_on"))


def _in_language(axes: Axes, t: Language) -> None:
    """The numbers on both axes."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _place: t.plain_number(value))
