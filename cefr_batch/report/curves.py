"""The curves of a report, from the logs of its runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cefr_batch.i18n.language import N_, Language
from cefr_batch.records.training import BestCheckpoint, LogEntry
from cefr_batch.report.blocks import Chart, Charts, Point, Series
from cefr_batch.report.compare import Comparison


@dataclass(frozen=True)
class PictureNames:
    """The pictures that lie beside a report: their files' names without their endings."""

    grid: str = "levels_grid"
    overlay: str = "levels_overlay"
    distributions: str = "level_distributions"
    heat_map: str = "level_heat_map"
    crossed: str = "cross_evaluation"


PICTURES = PictureNames()

_TRAIN, _EVAL, _RATE, _NORM = range(4)  # styles
_Y = N_("loss (nats per token)")


class Training(Protocol):
    """What curves are drawn from."""

    @property
    def log(self) -> Sequence[LogEntry]:
        """The points of the curves."""

    @property
    def best(self) -> BestCheckpoint | None:
        """The point that is marked."""


def run_charts(m: Training, t: Language, level: str) -> Charts:
    """Loss, learning rate and gradient norm of one run."""
    curves = (
        (t.text("Learning rate"), t.text("learning rate"), _RATE, lambda e: e.learning_rate),
        (
            t.text("Gradient norm"),
            t.text("gradient norm (L2, before clipping)"),
            _NORM,
            lambda e: e.gradient_norm,
        ),
    )
    others = [_chart(title, level, y, (_series(y, m.log, of, style, t),), t) for title, y, style, of in curves]
    return Charts((loss_chart(m, t, level), *others))


def loss_chart(m: Training, t: Language, level: str, limits: tuple[float, float] | None = None) -> Chart:
    """Training and evaluation loss of one run, in nats per token."""
    train = _series(t.text("training loss"), m.log, lambda e: e.loss, _TRAIN, t)
    evaluation = _series(t.text("evaluation loss"), m.log, lambda e: e.eval_loss, _EVAL, t)
    marks = (_point(m.best.step, m.best.eval_loss, t),) if m.best else ()
    name = t.text("best checkpoint") if marks else ""
    title = t.text("Training and evaluation loss")
    return _chart(title, level, t.text(_Y), (train, evaluation), t, marks, name, limits)


def grid(comparison: Comparison, t: Language) -> Charts:
    """A chart for each level, all with one scale."""
    metrics = [result.metrics for result in comparison.results]
    limits = common_limits([m.log for m in metrics])
    charts = tuple(loss_chart(m, t, label, limits) for m, label in zip(metrics, comparison.labels, strict=True))
    alternative = t.text(
        "Training and evaluation loss of {levels}, one chart each, all with one scale",
        levels=", ".join(comparison.labels),
    )
    return Charts(charts, PICTURES.grid, alternative)


def overlay(comparison: Comparison, t: Language) -> Charts:
    """The evaluation losses of all levels in one chart."""
    series = tuple(
        _series(label, result.metrics.log, lambda e: e.eval_loss, style, t, label)
        for style, (label, result) in enumerate(zip(comparison.labels, comparison.results, strict=True))
    )
    chart = _chart(t.text("Evaluation loss by level"), "", t.text(_Y), series, t)
    alternative = t.text("Evaluation loss of {levels} in one chart", levels=", ".join(comparison.labels))
    return Charts((chart,), PICTURES.overlay, alternative)


def common_limits(logs: Sequence[Sequence[LogEntry]]) -> tuple[float, float] | None:
    """The largest step and loss of all of them; None if there is no loss."""
    points = [(e.step, y) for log in logs for e in log for y in (e.loss, e.eval_loss) if y is not None]
    return (max(x for x, _ in points), max(y for _, y in points)) if points else None


def _chart(
    title: str,
    level: str,
    y_label: str,
    series: tuple[Series, ...],
    t: Language,
    marks: tuple[Point, ...] = (),
    mark_name: str = "",
    limits: tuple[float, float] | None = None,
) -> Chart:
    title = f"{title}, {level}" if level else title
    said = [_described(one, t) for one in series]
    x_label = t.text("optimizer step")
    return Chart(title, " ".join(said), x_label, y_label, series, marks, mark_name, limits, level)


def _described(series: Series, t: Language) -> str:
    """A curve in a sentence, for readers who cannot see it."""
    if not series.points:
        return t.text("{name}: no data.", name=series.name)
    first, last = series.points[0], series.points[-1]
    return t.text(
        "{name}: {n} values, from {first} to {last}.",
        name=series.name,
        n=t.count(len(series.points)),
        first=first.label,
        last=last.label,
    )


def _series(
    name: str,
    log: Sequence[LogEntry],
    value: Callable[[LogEntry], float | None],
    style: int,
    t: Language,
    level: str = "",
) -> Series:
    points = [_point(e.step, y, t) for e in log if (y := value(e)) is not None]
    return Series(name, tuple(points), style, level)


def _point(step: int, value: float, t: Language) -> Point:
    return Point(step, value, t.text("step {step}: {value}", step=t.count(step), value=t.plain_number(value)))
