"""A document as Markdown (GitHub's), laid out to be read as plain text too."""

from __future__ import annotations

from collections.abc import Collection

from cefr_batch.report.document import (
    Best,
    Block,
    Bullets,
    Charts,
    Code,
    Document,
    Inline,
    Lines,
    Paragraph,
    Section,
    Span,
    Strong,
    Table,
    Text,
    plain_text,
)
from cefr_batch.report.text import code, escaped, plain, table


def render_markdown(document: Document, pictures: Collection[str] = ()) -> str:
    """The whole text. ``pictures``: the names of files that lie beside it and are shown."""
    lines = [f"# {document.title}", ""]
    for block in document.blocks:
        lines += _block(block, 2, pictures)
    return "\n".join(lines).rstrip("\n") + "\n"


def _block(block: Block, depth: int, pictures: Collection[str]) -> list[str]:
    if isinstance(block, Section):
        inner = [line for part in block.blocks for line in _block(part, depth + 1, pictures)]
        return [f"{'#' * depth} {_line(block.title)}", "", *inner] if inner else []
    if isinstance(block, Paragraph):
        return [f"> ⚠ {_line(block.spans)}" if block.kind == "warning" else _line(block.spans), ""]
    if isinstance(block, Bullets):
        return [*(f"- {_line(item)}" for item in block.items), ""]
    if isinstance(block, Lines):
        return _lines(block)
    if isinstance(block, Table):
        cells = [[_line(cell) for cell in row] for row in block.rows]
        return table([_line(cell) for cell in block.header], cells, block.numbers)
    return _picture(block, pictures)


def _lines(block: Lines) -> list[str]:
    lines = [plain(line) for line in block.lines]
    if not block.language:
        return [*(f"    {line}".rstrip() for line in lines), ""]
    return [f"```{block.language}", *lines, "```", ""]


def _picture(charts: Charts, pictures: Collection[str]) -> list[str]:
    return [f"![{escaped(charts.alternative)}]({charts.picture})", ""] if charts.picture in pictures else []


def _line(spans: Inline) -> str:
    return "".join(map(_span, spans))


def _span(span: Span) -> str:
    if isinstance(span, Text):
        return _spaced(span.text)
    if isinstance(span, Code):
        return code(span.text)
    if isinstance(span, Strong):
        return f"**{_line(span.spans)}**"
    if isinstance(span, Best):
        return f"**{_line(span.spans)}** ★"
    return escaped(plain_text(span.spans))  # a link within the page: Markdown has no addresses of its own


def _spaced(text: str) -> str:
    """Escaped, with a blank kept at either end: what stands beside it is part of the same line."""
    inner = escaped(text)
    if not inner:
        return " " if text else ""
    return f"{' ' * text[0].isspace()}{inner}{' ' * text[-1].isspace()}"
