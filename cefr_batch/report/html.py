"""A document as one HTML page: no other file, no network, light and dark, on paper too."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from cefr_batch.report.document import (
    Best,
    Block,
    Chart,
    Code,
    Document,
    Inline,
    Link,
    Point,
    Series,
    Span,
    Strong,
    Text,
)
from cefr_batch.report.language import Language
from cefr_batch.report.text import printable

# A chart's size in its own units; the page scales it.
WIDTH, HEIGHT = 460.0, 290.0
LEFT, RIGHT, TOP, BOTTOM = 84.0, 12.0, 14.0, 46.0
STYLES = 5  # that the style sheet has


def render_html(document: Document) -> str:
    """The whole page. What comes from the store is escaped; the page's own style and script are the only ones allowed."""
    style, script = _resource("report.css"), _resource("report.js")
    environment = Environment(loader=FunctionLoader(_resource), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters["spans"] = partial(_spans, best=document.words["best"])
    environment.filters["printable"] = printable
    page = environment.get_template("report.html.jinja")
    t = Language(document.language)
    return page.render(
        document=document,
        words=document.words,
        kind=_kind,
        drawing=lambda chart: Drawing.of(chart, t),
        style=Markup(style),  # noqa: S704 (a file of the package)
        script=Markup(script),  # noqa: S704
        policy=_policy(style, script),
    )


def _resource(name: str) -> str:
    return (files("cefr_batch.report") / "page" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """A Content-Security-Policy: nothing but this style and this script."""
    allowed = {"style-src": style, "script-src": script}
    hashes = (f"{kind} 'sha256-{_sha256(text)}'" for kind, text in allowed.items())
    return "; ".join(("default-src 'none'", *hashes, "base-uri 'none'", "form-action 'none'"))


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _kind(block: Block) -> str:
    return type(block).__name__


def _spans(spans: Inline, best: str) -> Markup:
    return Markup("").join(_span(span, best) for span in spans)


def _span(span: Span, best: str) -> Markup:
    if isinstance(span, Text):
        return Markup.escape(printable(span.text))
    if isinstance(span, Code):
        return Markup("<code>{}</code>").format(printable(span.text))
    inner = _spans(span.spans, best)
    if isinstance(span, Strong):
        return Markup("<strong>{}</strong>").format(inner)
    if isinstance(span, Link):
        return Markup('<a href="#{}">{}</a>').format(span.target, inner)
    star = Markup('<span aria-hidden="true"> ★</span><span class="unseen"> ({})</span>').format(best)
    return Markup('<strong class="best">{}{}</strong>').format(inner, star) if isinstance(span, Best) else inner


@dataclass(frozen=True)
class Spot:
    """A point on the drawing."""

    x: str
    y: str
    label: str


@dataclass(frozen=True)
class Curve:
    series: Series
    style: int
    dash: int
    path: str
    spots: tuple[Spot, ...]


@dataclass(frozen=True)
class Tick:
    at: str
    label: str


@dataclass(frozen=True)
class Drawing:
    """A chart's geometry, in the units of ``WIDTH`` and ``HEIGHT``."""

    chart: Chart
    curves: tuple[Curve, ...]
    marks: tuple[Spot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]

    width, height = WIDTH, HEIGHT
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM

    @classmethod
    def of(cls, chart: Chart, t: Language) -> Drawing:
        points = [point for series in chart.series for point in series.points]
        if not points:
            return cls(chart, (), (), (), ())
        x, y = chart.limits or (max(p.x for p in points), max(p.y for p in points))
        x_scale, y_scale = _Scale.to(x, LEFT, WIDTH - RIGHT), _Scale.to(y, HEIGHT - BOTTOM, TOP)

        def spots(some: Sequence[Point]) -> tuple[Spot, ...]:
            return tuple(Spot(x_scale.at(p.x), y_scale.at(p.y), p.label) for p in some)

        curves = []
        for series in chart.series:
            drawn = spots(series.points)
            path = " ".join(f"{'L' if i else 'M'}{s.x} {s.y}" for i, s in enumerate(drawn))
            curves.append(Curve(series, series.style % STYLES, series.style // STYLES % 3, path, drawn))
        return cls(chart, tuple(curves), spots(chart.marks), x_scale.ticks(t), y_scale.ticks(t))


@dataclass(frozen=True)
class _Scale:
    """From 0 to ``top``, drawn from ``begin`` to ``end``."""

    top: float
    values: tuple[float, ...]
    begin: float
    end: float

    @classmethod
    def to(cls, largest: float, begin: float, end: float) -> _Scale:
        from matplotlib.ticker import MaxNLocator

        top = largest if largest > 0 else 1.0
        values = MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(0, top)
        reach = max(top * 1.02, *(v for v in values if v <= top * 1.1))
        return cls(reach, tuple(float(v) for v in values if 0 <= v <= reach), begin, end)

    def at(self, value: float) -> str:
        return f"{self.begin + (self.end - self.begin) * min(max(value / self.top, 0.0), 1.0):.1f}"

    def ticks(self, t: Language) -> tuple[Tick, ...]:
        return tuple(Tick(self.at(value), t.plain_number(value)) for value in self.values)
