"""The curves of a report, from the logs of its runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cefr_batch.report.compare import Comparison
from cefr_batch.report.document import Chart, Charts, Point, Series
from cefr_batch.report.language import N_, Language
from cefr_batch.report.stored import LogEntry, MetricsFile

GRID, OVERLAY = "levels_grid", "levels_overlay"

_TRAIN, _EVAL, _RATE, _NORM = range(4)  # styles
_Y = N_("loss (nats per token)")


def run_charts(m: MetricsFile, t: Language, level: str) -> Charts:
    """Loss, learning rate and gradient norm of one run."""
    curves = (
        (t.text(N_("Learning rate")), t.text(N_("learning rate")), _RATE, lambda e: e.learning_rate),
        (
            t.text(N_("Gradient norm")),
            t.text(N_("gradient norm (L2, before clipping)")),
            _NORM,
            lambda e: e.gradient_norm,
        ),
    )
    others = [_chart(title, level, y, (_series(y, m.log, of, style, t),), t) for title, y, style, of in curves]
    return Charts((loss_chart(m, t, level), *others))


def loss_chart(m: MetricsFile, t: Language, level: str, limits: tuple[float, float] | None = None) -> Chart:
    train = _series(t.text(N_("training loss")), m.log, lambda e: e.loss, _TRAIN, t)
    evaluation = _series(t.text(N_("evaluation loss")), m.log, lambda e: e.eval_loss, _EVAL, t)
    marks = (_point(m.best.step, m.best.eval_loss, t),) if m.best else ()
    name = t.text(N_("best checkpoint")) if marks else ""
    title = t.text(N_("Training and evaluation loss"))
    return _chart(title, level, t.text(_Y), (train, evaluation), t, marks, name, limits)


def grid(comparison: Comparison, t: Language) -> Charts:
    """A chart for each level, all with one scale."""
    metrics = [result.metrics for result in comparison.results]
    limits = common_limits([m.log for m in metrics])
    charts = tuple(loss_chart(m, t, label, limits) for m, label in zip(metrics, comparison.labels, strict=True))
    alternative = t.text(
        N_("Training and evaluation loss of {levels}, one chart each, all with one scale"),
        levels=", ".join(comparison.labels),
    )
    return Charts(charts, f"{GRID}.png", alternative)


def overlay(comparison: Comparison, t: Language) -> Charts:
    """The evaluation losses of all levels in one chart."""
    series = tuple(
        _series(label, result.metrics.log, lambda e: e.eval_loss, style, t, label)
        for style, (label, result) in enumerate(zip(comparison.labels, comparison.results, strict=True))
    )
    chart = _chart(t.text(N_("Evaluation loss by level")), "", t.text(_Y), series, t)
    alternative = t.text(N_("Evaluation loss of {levels} in one chart"), levels=", ".join(comparison.labels))
    return Charts((chart,), f"{OVERLAY}.png", alternative)


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
    x_label = t.text(N_("optimizer step"))
    return Chart(title, " ".join(said), x_label, y_label, series, marks, mark_name, limits, level)


def _described(series: Series, t: Language) -> str:
    """A curve in a sentence, for readers who cannot see it."""
    if not series.points:
        return t.text(N_("{name}: no data."), name=series.name)
    first, last = series.points[0], series.points[-1]
    return t.text(
        N_("{name}: {n} values, from {first} to {last}."),
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
    return Point(step, value, t.text(N_("step {step}: {value}"), step=t.count(step), value=t.plain_number(value)))
