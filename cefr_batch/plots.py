"""A run's log → figures. matplotlib loads when the first one is drawn, without pyplot and its global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cefr_batch.layout import PLOT_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 300
INCHES = (7.0, 4.5)

Log = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _Curve:
    """A key of the log's entries and its look. Colours: Okabe & Ito, told apart by colour-blind readers too."""

    key: str
    label: str
    colour: str
    line: str
    marker: str


_TRAIN = _Curve("loss", "training loss", "#0072B2", "-", "o")
_EVAL = _Curve("eval_loss", "evaluation loss", "#D55E00", "--", "s")
_RATE = _Curve("learning_rate", "learning rate", "#009E73", "-", "o")
_NORM = _Curve("gradient_norm", "gradient norm", "#CC79A7", "-", "o")
_BEST = "#000000"
_COLOURS = (_TRAIN.colour, _EVAL.colour, _RATE.colour, _NORM.colour, "#E69F00")
_LINES, _MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D", "v", "P", "X")

_PLOTS: dict[str, tuple[str, str, tuple[_Curve, ...]]] = {  # name: heading, y axis, curves
    "training_loss": ("Training loss", "loss (nats per token)", (_TRAIN,)),
    "eval_loss": ("Evaluation loss", "loss (nats per token)", (_EVAL,)),
    "combined_loss": ("Training and evaluation loss", "loss (nats per token)", (_TRAIN, _EVAL)),
    "learning_rate": ("Learning rate", "learning rate", (_RATE,)),
    "gradient_norm": ("Gradient norm", "gradient norm (L2, before clipping)", (_NORM,)),
}


def write_plots(log: Log, best: Mapping[str, Any] | None, title: str, folder: Path) -> list[Path]:
    """Draw ``<folder>/<name>.png`` for each of ``layout.PLOT_NAMES``, at 300 DPI, and return the files in that order.

    ``log`` holds ``metrics.json``'s entries, ``best`` its best checkpoint (``step``, ``eval_loss``), marked on the
    evaluation curves. A curve without points says so in the picture. The same input gives the same bytes.
    """
    from matplotlib import style

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with style.context("default"):  # not the user's matplotlibrc
        for name in PLOT_NAMES:
            files.append(folder / f"{name}.png")
            figure = _draw(name, log, best, title)
            figure.savefig(files[-1], dpi=DPI, metadata={"Software": None})  # None: no version in the bytes
    return files


def write_level_plots(levels: Mapping[str, Log], grid: Path, overlay: Path) -> None:
    """Draw the levels' losses, given by label, at 300 DPI: a chart each with one scale, and the evaluation losses in one
    chart. The same input gives the same bytes."""
    from matplotlib import style

    with style.context("default"):
        for path, figure in ((grid, _level_grid(levels)), (overlay, _level_overlay(levels))):
            figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _level_grid(levels: Mapping[str, Log]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(levels))
    rows = math.ceil(len(levels) / columns)
    figure = Figure(figsize=(3.5 * columns, 3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    shared = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    charts = shared.flat
    for (label, log), axes in zip(levels.items(), charts, strict=False):
        axes.set_title(label, fontsize="medium", parse_math=False)
        drawn = [_add_curve(axes, curve, log) for curve in (_TRAIN, _EVAL)]
        axes.grid(alpha=0.3)
        if all(drawn):
            axes.legend(fontsize="small")
    shared[0, 0].set(xlim=(0, None), ylim=(0, None))  # after all curves: a limit that is set no longer grows
    for axes in list(charts):
        axes.set_visible(False)
    figure.supxlabel("optimizer step", fontsize="medium")
    figure.supylabel(_PLOTS["eval_loss"][1], fontsize="medium")
    return figure


def _level_overlay(levels: Mapping[str, Log]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(_PLOTS["eval_loss"][0], fontsize="medium")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(_PLOTS["eval_loss"][1])
    looks = zip(levels.items(), cycle(_COLOURS), cycle(_LINES), cycle(_MARKERS), strict=False)
    drawn = [
        _add_curve(axes, _Curve("eval_loss", label.replace("$", r"\$"), *look), log) for (label, log), *look in looks
    ]
    if not any(drawn):
        _say_no_data(axes)
        return figure
    axes.grid(alpha=0.3)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def _draw(name: str, log: Log, best: Mapping[str, Any] | None, title: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heading, y_label, curves = _PLOTS[name]
    figure = Figure(figsize=INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    figure.suptitle(f"{heading}\n{title}", fontsize="medium", parse_math=False)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(y_label)
    drawn = [_add_curve(axes, curve, log) for curve in curves]
    if not any(drawn):
        _say_no_data(axes)
        return figure
    if _EVAL in curves and best is not None:
        _mark_best(axes, best)
    axes.grid(alpha=0.3)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=True)
    _add_epochs(axes, log)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend()
    return figure


def _add_curve(axes: Axes, curve: _Curve, log: Log) -> bool:
    """Draw it; whether there was anything to draw."""
    points = _points(log, curve.key)
    if not points:
        return False
    look: dict[str, Any] = {"color": curve.colour, "marker": curve.marker, "markersize": 3.5, "linewidth": 1.5}
    axes.plot(*zip(*points, strict=True), curve.line, label=curve.label, **look)
    return True


def _points(log: Log, key: str) -> list[tuple[float, float]]:
    return [(e["step"], e[key]) for e in log if e.get(key) is not None and math.isfinite(e[key])]


def _mark_best(axes: Axes, best: Mapping[str, Any]) -> None:
    step, loss = best["step"], best["eval_loss"]
    label = f"best checkpoint: {loss:.3f} at step {step}"
    axes.plot([step], [loss], "*", color=_BEST, markersize=13, linestyle="none", zorder=3, label=label)


def _say_no_data(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", fontsize="xx-large", color="0.4")
    axes.set_xticks([])
    axes.set_yticks([])


def _add_epochs(axes: Axes, log: Log) -> None:
    """A second x axis in epochs: proportional to the steps, by the log's last entry."""
    known = [(e["step"], e["epoch"]) for e in log if e.get("epoch") and e["step"]]
    if not known:
        return
    step, epoch = max(known)
    per_step = epoch / step
    axes.secondary_xaxis("top", functions=(lambda x: x * per_step, lambda x: x / per_step)).set_xlabel("epoch")
