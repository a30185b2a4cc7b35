"""A report as one HTML page: no other file, no network, light and dark, on paper too."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup
from typing_extensions import override

from cefr_batch.i18n.language import N_, Language
from cefr_batch.records.level_figures import SCALE
from cefr_batch.report.blocks import Blocks, Chart, Charts, Distribution, Table
from cefr_batch.report.markdown import Inline, Markdown, ReportLanguage

# A chart's size in its own units; the page scales it.
WIDTH, HEIGHT = 460.0, 290.0
LEFT, RIGHT, TOP, BOTTOM = 84.0, WIDTH - 12.0, 14.0, HEIGHT - 46.0


class Strip(NamedTuple):
    """The frame of a distribution, whose chart is as wide as the others."""

    left: float = 16.0
    right: float = WIDTH - 16.0
    top: float = 6.0
    bottom: float = 96.0
    height: float = 116.0


STRIP = Strip()
HEATS = 10  # shades of a cell, beside none

WORDS = {
    "contents": N_("Contents"),
    "show": N_("Levels shown"),
    "best": N_("best"),
    "warning": N_("Warning"),
    "no_data": N_("no data"),
    "sort": N_("Sort by this column"),
    "hover": N_("Move over a curve to read its values."),
}


class PageBlocks(Blocks):
    """For one page. HTML is kept aside; a numbered code block marks its place in the Markdown until ``whole`` inserts it."""

    def __init__(self, t: ReportLanguage) -> None:
        self._t = t
        self._words = _words(t)
        self._html: list[str] = []
        self._contents: list[tuple[str, str, str]] = []  # key, level and title of each section
        self._markdown = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer)

    @override
    def table(self, table: Table) -> Markdown:
        return self._placed(self._macro("table", table))

    @override
    def charts(self, charts: Charts) -> Markdown:
        return self._placed(charts_html(charts, self._t))

    @override
    def distribution(self, drawn: Distribution) -> Markdown:
        most = max(share for one in drawn.shares for share in one.shares) or 1.0
        return self._placed(self._macro("distribution", drawn, [_steps(one.shares, most) for one in drawn.shares]))

    @override
    def picture(self, name: str, alternative: str) -> Markdown:
        return Markdown()

    @override
    def cards(self, *, caller: Callable[[], str]) -> Markdown:
        return self._placed('<div class="cards">') + Markdown(caller()) + self._placed("</div>")

    @override
    def link(self, text: Inline, key: str) -> Markdown:
        return Markdown("[{}](#{})").format(text, key)

    @override
    def section(
        self, depth: int, title: Inline, key: str = "", level: str = "", *, caller: Callable[[], str]
    ) -> Markdown:
        if depth == 2:
            self._contents.append((key, level, self._inline(title)))
        opened = Markup("<section{}>").format(_attributes(id=key, data_level=level))
        heading = Markdown("{} {}\n\n").format(Markdown("#" * depth), title)
        return self._placed(opened) + heading + Markdown(caller()) + self._placed("</section>")

    def whole(self, title: str, text: str, levels: Sequence[str]) -> str:
        """The page with this Markdown in it. ``levels``: what its reader may show and hide.

        What comes from the store is escaped; the page's own style and script are the only ones allowed.
        """
        style, script = page_style(), _resource("report.js")
        template = _environment().get_template("page.html.jinja")
        return template.render(
            title=title,
            language=self._t.code,
            levels=levels,
            words=self._words,
            contents=self._contents,
            body=Markup(self._markdown.render(text, {"html": self._html, "words": self._words})),  # noqa: S704
            style=Markup(style),  # noqa: S704 (a file of the package)
            script=Markup(script),  # noqa: S704
            policy=_policy(style, script),
        )

    def _placed(self, html: str) -> Markdown:
        self._html.append(html)
        return Markdown(f"\n\n```html\n{len(self._html) - 1}\n```\n\n")

    def _inline(self, text: Inline) -> Markup:
        return Markup(self._markdown.renderInline(Markdown.escape(text), {"words": self._words}))  # noqa: S704

    def _macro(self, name: str, *arguments: object) -> str:
        template = _environment().get_template("blocks.html.jinja")
        context = {"t": self._t, "words": self._words, "inline": self._inline, "plain": self._plain}
        return str(getattr(template.make_module(context), name)(*arguments))

    def _plain(self, text: Inline) -> str:
        return self._inline(text).striptags()


class _Renderer(RendererHTML):
    """Puts the HTML of ``PageBlocks`` in place, makes code blocks reachable by keyboard, and names the signs ★ and ⚠."""

    @override
    def fence(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        if tokens[idx].info == "html":
            return str(env["html"][int(tokens[idx].content)])
        return self.code_block(tokens, idx, options, env)

    @override
    def code_block(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return f'<pre tabindex="0"><code>{escapeHtml(tokens[idx].content)}</code></pre>\n'

    def blockquote_open(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        """Every quotation in a report is a warning."""
        return '<blockquote class="warning">\n'

    @override
    def text(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        signs = {"★": "best", "⚠": "warning"}
        html = escapeHtml(tokens[idx].content)
        for sign, word in signs.items():
            named = f'<span role="img" class="{word}-sign" aria-label="{escapeHtml(env["words"][word])}">{sign}</span>'
            html = html.replace(sign, named)
        return html


def charts_html(charts: Charts, t: Language) -> Markup:
    """Charts side by side, for a page with ``page_style``."""
    module = _environment().get_template("blocks.html.jinja").make_module({"t": t, "words": _words(t)})
    drawn = [(chart, *_axes(chart)) for chart in charts.charts]
    return Markup(getattr(module, "charts")(drawn))  # noqa: B009, S704 (a macro of the template, which escapes)


def page_style() -> str:
    """The style sheet of the page."""
    return _resource("report.css")


def _words(t: Language) -> dict[str, str]:
    return {key: t.text(message) for key, message in WORDS.items()}


def _attributes(**given: str) -> Markup:
    pairs = ((name.replace("_", "-"), value) for name, value in given.items() if value)
    return Markup("").join(Markup(' {}="{}"').format(name, value) for name, value in pairs)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cefr_batch.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"attributes": _attributes, "size": (WIDTH, HEIGHT), "frame": (LEFT, RIGHT, TOP, BOTTOM)}
    environment.globals |= {"strip": STRIP, "scale": SCALE, "shade": _shade}
    return environment


def _shade(table: Table, row: int, column: int) -> str:
    """The class of a cell that is coloured."""
    heat = table.heat[row][column] if table.heat else None
    return "" if heat is None else f"heat{round(heat * HEATS)}"


@cache
def _resource(name: str) -> str:
    return (files("cefr_batch.report") / "templates" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """A Content-Security-Policy: nothing but this style and this script."""
    allowed = {"style-src": style, "script-src": script}
    hashes = (f"{kind} 'sha256-{_sha256(text)}'" for kind, text in allowed.items())
    return "; ".join(("default-src 'none'", *hashes, "base-uri 'none'", "form-action 'none'"))


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@dataclass(frozen=True)
class Axis:
    """An axis from 0 to ``top``, drawn from ``begin`` to ``end``."""

    top: float
    ticks: tuple[float, ...]
    begin: float
    end: float

    @classmethod
    def to(cls, largest: float, begin: float, end: float) -> Axis:
        """An axis that holds the values from 0 to ``largest``, with some five ticks at round values."""
        from matplotlib.ticker import MaxNLocator

        top = largest if largest > 0 else 1.0
        values = MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(0, top)
        reach = max(top * 1.02, *(v for v in values if v <= top * 1.1))
        return cls(reach, tuple(float(v) for v in values if 0 <= v <= reach), begin, end)

    def at(self, value: float) -> str:
        """Where a value is, in the chart's units."""
        return f"{self.begin + (self.end - self.begin) * min(max(value / self.top, 0.0), 1.0):.1f}"


def _steps(shares: Sequence[float], most: float) -> str:
    """A path along the tops of bars, from the base line and back to it."""
    width = (STRIP.right - STRIP.left) / len(shares)
    tops = [STRIP.bottom - (STRIP.bottom - STRIP.top) * share / most for share in shares]
    edges = [STRIP.left + width * place for place in range(len(shares) + 1)]
    bars = [f"V{top:.1f} H{right:.1f}" for top, right in zip(tops, edges[1:], strict=True)]
    return f"M{STRIP.left:.1f} {STRIP.bottom:.1f} {' '.join(bars)} V{STRIP.bottom:.1f}"


def _axes(chart: Chart) -> tuple[Axis, Axis]:
    """The horizontal and the vertical axis."""
    points = [point for series in chart.series for point in series.points]
    x, y = chart.limits or (max((p.x for p in points), default=0.0), max((p.y for p in points), default=0.0))
    return Axis.to(x, LEFT, RIGHT), Axis.to(y, BOTTOM, TOP)
