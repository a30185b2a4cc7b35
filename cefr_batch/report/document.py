"""What a report says, apart from how it looks: sections of blocks, whose text is spans. Renderers turn it into files.

A ``Text`` span may hold anything from the store; a renderer shows it as it is. What is emphasised or in code type comes
from a message's own mark-up (``**strong**``, `` `code` ``), never from a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Strong:
    spans: Inline


@dataclass(frozen=True)
class Best:
    """A value that is the best of its row."""

    spans: Inline


@dataclass(frozen=True)
class Link:
    """``target``: the ``key`` of a section of this document."""

    spans: Inline
    target: str


Span: TypeAlias = Text | Code | Strong | Best | Link
Inline: TypeAlias = tuple[Span, ...]
Value: TypeAlias = str | Span | Inline

_MARKUP = re.compile(r"\*\*(?P<strong>.+?)\*\*|`(?P<code>[^`]+)`|\{(?P<name>\w+)\}")


def filled(message: str, values: Mapping[str, Value]) -> Inline:
    """A message's spans, its ``{name}`` replaced by values. Raises ``KeyError`` for one that is not given."""
    spans: list[Span] = []
    end = 0
    for match in _MARKUP.finditer(message):
        spans += inline(message[end : match.start()])
        end = match.end()
        if match["strong"]:
            spans.append(Strong(filled(match["strong"], values)))
        elif match["code"]:
            spans.append(Code(match["code"].format_map({k: plain_text(inline(v)) for k, v in values.items()})))
        else:
            spans += inline(values[match["name"]])
    return (*spans, *inline(message[end:]))


def inline(value: Value) -> Inline:
    if isinstance(value, str):
        return (Text(value),) if value else ()
    return value if isinstance(value, tuple) else (value,)


def joined(parts: Sequence[Value], between: str = ", ") -> Inline:
    spans: list[Span] = []
    for number, part in enumerate(parts):
        spans += (*inline(between if number else ""), *inline(part))
    return tuple(spans)


def plain_text(spans: Inline) -> str:
    return "".join(span.text if isinstance(span, (Text, Code)) else plain_text(span.spans) for span in spans)


@dataclass(frozen=True)
class Paragraph:
    spans: Inline
    kind: Literal["text", "warning"] = "text"


@dataclass(frozen=True)
class Bullets:
    items: tuple[Inline, ...]


@dataclass(frozen=True)
class Lines:
    """Lines in code type, of a language or none."""

    lines: tuple[str, ...]
    language: str = ""


@dataclass(frozen=True)
class Table:
    """``numbers``: the columns that align to the right. The first column names its row. ``of_columns`` and ``of_rows``: the
    level that a column or row belongs to, "" for none; the reader may hide levels. ``sort``: a value for each cell by
    which the reader may sort the rows."""

    caption: Inline
    header: tuple[Inline, ...]
    rows: tuple[tuple[Inline, ...], ...]
    numbers: frozenset[int] = frozenset()
    of_columns: tuple[str, ...] = ()
    of_rows: tuple[str, ...] = ()
    sort: tuple[tuple[float | str | None, ...], ...] = ()


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    label: str  # both values as the reader is shown them


@dataclass(frozen=True)
class Series:
    """``style``: which colour and dash, the same throughout the report. ``level``: as in ``Table.of_columns``."""

    name: str
    points: tuple[Point, ...]
    style: int
    level: str = ""


@dataclass(frozen=True)
class Chart:
    """Curves over optimizer steps. ``limits``: (x, y) to which the axes reach, where charts share a scale."""

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
    """Charts side by side. ``picture``: the name of a file with the same, for renderers that cannot draw."""

    charts: tuple[Chart, ...]
    picture: str = ""
    alternative: str = ""


Block: TypeAlias = "Paragraph | Bullets | Lines | Table | Charts | Section"


@dataclass(frozen=True)
class Section:
    """``key``: its address in the document. ``level``: as in ``Table.of_columns``."""

    title: Inline
    blocks: tuple[Block, ...]
    key: str = ""
    level: str = ""


@dataclass(frozen=True)
class Document:
    """``levels``: the names by which the reader may show and hide levels."""

    title: str
    language: str
    blocks: tuple[Block, ...]
    levels: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)

    def sections(self) -> Iterator[Section]:
        return (block for block in self.blocks if isinstance(block, Section))
