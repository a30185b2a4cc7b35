"""The parts of a report that look different in a Markdown file and on the page: tables, charts, sections, links.

Everything else of a report is plain Markdown in ``templates/``. ``render.py`` fills the templates in with one kind of
``Blocks``: ``MarkdownBlocks`` here, ``PageBlocks`` in ``page.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from typing_extensions import override

from cefr_batch.report.markdown import Inline, Markdown, table_lines


@dataclass(frozen=True)
class Table:
    """``numbers``: the columns aligned to the right. The first column names its row. ``of_columns`` and ``of_rows``: the
    level that a column or row belongs to, "" for none; the page's reader may hide levels. ``sort``: a value for each cell
    by which the page's reader may sort the rows. ``heat``: how strongly each cell is coloured, from 0 to 1; None: not."""

    caption: Inline
    header: Sequence[Inline]
    rows: Sequence[Sequence[Inline]]
    numbers: Collection[int] = ()
    of_columns: Sequence[str] = ()
    of_rows: Sequence[str] = ()
    sort: Sequence[Sequence[float | str | None]] = ()
    heat: Sequence[Sequence[float | None]] = ()


@dataclass(frozen=True)
class Point:
    """A value at an optimizer step; ``label``: both as the reader is shown them."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Series:
    """A curve. ``style``: which colour and dash, the same throughout the report. ``level``: as in ``Table``."""

    name: str
    points: tuple[Point, ...]
    style: int
    level: str = ""


@dataclass(frozen=True)
class Chart:
    """Curves over optimizer steps; ``description`` is for readers who cannot see them. ``limits``: the largest x and y of
    the axes, where charts share a scale. ``level``: as in ``Table``."""

    title: str
    description: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    marks: tuple[Point, ...] = ()
    mark_name: str = ""
    limits: tuple[float, float] | None = None
    level: str = ""


@dataclass(frozen=True)
class Charts:
    """Charts side by side. ``picture``: the name of one with the same, for a Markdown file beside it."""

    charts: tuple[Chart, ...]
    picture: str = ""
    alternative: str = ""


@dataclass(frozen=True)
class Share:
    """How sentences are distributed over the bins of a ``Distribution``; ``outline``: drawn as a line over the others."""

    name: str
    shares: tuple[float, ...]
    outline: bool = False


@dataclass(frozen=True)
class Distribution:
    """Distributions over one another, with equal bins from 1 (A1) to 6 (C2). ``level``: as in ``Table``."""

    title: str
    description: str
    shares: tuple[Share, ...]
    level: str = ""


class Blocks(ABC):
    """What the templates call. Each method returns whole lines of Markdown."""

    @abstractmethod
    def table(self, table: Table) -> Markdown:
        """A table."""

    @abstractmethod
    def charts(self, charts: Charts) -> Markdown:
        """Charts, or nothing where they cannot be shown."""

    @abstractmethod
    def distribution(self, drawn: Distribution) -> Markdown:
        """Distributions, or nothing where they cannot be drawn."""

    @abstractmethod
    def picture(self, name: str, alternative: str) -> Markdown:
        """The picture of this name (of ``curves.PICTURES``), where it lies beside the report and the report does not draw it
        itself."""

    @abstractmethod
    def cards(self, *, caller: Callable[[], str]) -> Markdown:
        """What the template's ``call`` block holds, its sections side by side where there is room."""

    @abstractmethod
    def link(self, text: Inline, key: str) -> Markdown:
        """A link to the section with this key, within a line."""

    @abstractmethod
    def section(
        self, depth: int, title: Inline, key: str = "", level: str = "", *, caller: Callable[[], str]
    ) -> Markdown:
        """A heading of this depth and what the template's ``call`` block holds; ``key``: the section's address in the
        document, ``level``: as in ``Table``."""


class MarkdownBlocks(Blocks):
    """For a Markdown file. ``pictures``: the names of the files that lie beside it."""

    def __init__(self, pictures: Collection[str] = ()) -> None:
        self._pictures = pictures

    @override
    def table(self, table: Table) -> Markdown:
        return Markdown("\n".join(table_lines(table.header, table.rows, table.numbers)) + "\n")

    @override
    def charts(self, charts: Charts) -> Markdown:
        return self.picture(charts.picture, charts.alternative)

    @override
    def distribution(self, drawn: Distribution) -> Markdown:
        return Markdown()

    @override
    def picture(self, name: str, alternative: str) -> Markdown:
        file = f"{name}.png"
        return Markdown("![{}]({})\n").format(alternative, file) if file in self._pictures else Markdown()

    @override
    def cards(self, *, caller: Callable[[], str]) -> Markdown:
        return Markdown(caller())

    @override
    def link(self, text: Inline, key: str) -> Markdown:
        return Markdown.escape(text)  # addresses in a Markdown file depend on the program that shows it

    @override
    def section(
        self, depth: int, title: Inline, key: str = "", level: str = "", *, caller: Callable[[], str]
    ) -> Markdown:
        body = caller()
        return Markdown("\n{} {}\n\n{}\n").format(Markdown("#" * depth), title, body) if body.strip() else Markdown()
