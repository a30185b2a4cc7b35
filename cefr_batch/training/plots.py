"""A run's log → figures. matplotlib loads when the first one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cefr_batch.records.layout import PLOT_NAMES
from cefr_batch.records.losses import Losses
from cefr_batch.records.training import BestCheckpoint, LogEntry
from cefr_batch.training.drawing import new_figure, own_style, saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = (7.0, 4.5)

Log = Sequence[LogEntry]


@dataclass(frozen=True)
class Curve:
    """A key of the log's entries and its look. Colours: Okabe & Ito, told apart by colour-blind readers too."""

    key: str
    label: str
    colour: str
    line: str
    marker: str


TRAIN = Curve("loss", "training loss", "#0072B2", "-", "o")
EVAL = Curve("eval_loss", "evaluation loss", "#D55E00", "--", "s")
_RATE = Curve("learning_rate", "learning rate", "#009E73", "-", "o")
_NORM = Curve("gradient_norm", "gradient norm", "#CC79A7", "-", "o")
_BEST = "#000000"
_UNTRAINED = "0.35"
COLOURS = (TRAIN.colour, EVAL.colour, _RATE.colour, _NORM.colour, "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_PLOTS: dict[str, tuple[str, str, tuple[Curve, ...]]] = {  # name: heading, y axis, curves
    "training_loss": ("Training loss", "loss (nats per token)", (TRAIN,)),
    "eval_loss": ("Evaluation loss", "loss (nats per token)", (EVAL,)),
    "combined_loss": ("Training and evaluation loss", "loss (nats per token)", (TRAIN, EVAL)),
    "learning_rate": ("Learning rate", "learning rate", (_RATE,)),
    "gradient_norm": ("Gradient norm", "gradient norm (L2, before clipping)", (_NORM,)),
}


def write_plots(log: Log, best: BestCheckpoint | None, untrained: float | None, folder: Path) -> list[Path]:
    """Draw each of ``layout.PLOT_NAMES`` and return the files, in each of ``drawing.FORMATS``.

    ``best`` is marked on the evaluation curves; ``untrained``, the loss before training on the same examples, is a line
    there. A curve without points says so in the picture. The same input gives the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with own_style():
        for name in PLOT_NAMES:
            for file, data in saved(name, _draw(name, log, best, untrained)).items():
                (folder / file).write_bytes(data)
                files.append(folder / file)
    return files


def untrained_loss(baseline: Losses, loss_on: object) -> float:
    """The untrained model's loss over the tokens that training counts, in nats a token."""
    return (baseline.response if loss_on == "response" else baseline.full).loss


def _draw(name: str, log: Log, best: BestCheckpoint | None, untrained: float | None) -> Figure:
    heading, y_label, curves = _PLOTS[name]
    figure = new_figure(*INCHES)
    axes = figure.add_subplot()
    figure.suptitle(heading, fontsize="medium")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(y_label)
    drawn = [add_curve(axes, curve, log) for curve in curves]
    if not any(drawn):
        write_no_data(axes, "no data")
        return figure
    if EVAL in curves:
        _add_losses(axes, best, untrained)
    axes.grid(alpha=0.3)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=True)
    _add_epochs(axes, log)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend()
    return figure


def _add_losses(axes: Axes, best: BestCheckpoint | None, untrained: float | None) -> None:
    if untrained is not None:
        add_untrained(axes, untrained, f"untrained model: {untrained:.3f}")
    if best:
        mark_best(axes, best, f"best checkpoint: {best.eval_loss:.3f} at step {best.step}")


def add_curve(axes: Axes, curve: Curve, log: Log) -> bool:
    """Draw it; whether there was anything to draw."""
    points = _points(log, curve.key)
    if not points:
        return False
    look: dict[str, Any] = {"color": curve.colour, "marker": curve.marker, "markersize": 3.5, "linewidth": 1.5}
    axes.plot(*zip(*points, strict=True), curve.line, label=curve.label, **look)
    return True


def _points(log: Log, key: str) -> list[tuple[float, float]]:
    return [(entry.step, value) for entry in log if (value := getattr(entry, key)) is not None]


def mark_best(axes: Axes, best: BestCheckpoint, label: str = "") -> None:
    """A star at the best evaluation."""
    look: dict[str, Any] = {"color": _BEST, "markersize": 11, "linestyle": "none", "zorder": 3}
    axes.plot([best.step], [best.eval_loss], "*", label=label or "_", **look)


def add_untrained(axes: Axes, loss: float, label: str = "", colour: str = _UNTRAINED) -> None:
    """A level line at the loss before training."""
    axes.axhline(loss, color=colour, linestyle=":", linewidth=1.2, label=label or "_")


def write_no_data(axes: Axes, text: str) -> None:
    """Say so in place of curves."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize="xx-large", color="0.4")
    axes.set_xticks([])
    axes.set_yticks([])


def _add_epochs(axes: Axes, log: Log) -> None:
    """A second x axis in epochs: proportional to the steps, by the log's last entry."""
    known = [(entry.step, entry.epoch) for entry in log if entry.epoch and entry.step]
    if not known:
        return
    step, epoch = max(known)
    per_step: Any = epoch / step
    axes.secondary_xaxis("top", functions=(lambda x: x * per_step, lambda x: x / per_step)).set_xlabel("epoch")
