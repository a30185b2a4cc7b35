"""Markdown (GitHub's) in which text from anywhere can be placed safely, and which reads well as plain text too."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup
from typing_extensions import Self, override

from cefr_batch.i18n.language import Language

Inline = str  # one line; what is not ``Markdown`` is escaped when it is placed into a report


class Markdown(Markup):
    """Text that is Markdown already. Whatever else is placed into it is escaped, and so shows as it is.

    ``Markdown("**{}**").format(name)`` is bold whatever the name holds; ``+``, ``%`` and ``join`` escape alike.
    """

    __slots__ = ()

    @override
    @classmethod
    def escape(cls, s: Any, /) -> Self:
        return cls(s) if hasattr(s, "__html__") else cls(escaped(str(s)))


class ReportLanguage(Language):
    """Messages as Markdown: mark-up in a message counts, mark-up in the values filled in does not."""

    @override
    def __call__(self, message: str, /, **values: object) -> Markdown:
        return Markdown(self.message(message)).format(**values)


def plain(text: str) -> str:
    """One line of printable characters: white space becomes a blank, any other control character a replacement sign."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


# What would start something inside a line or end a table's cell. Not all punctuation: the report is also read as it is.
_SPECIAL = re.compile(r"[\\`*\[\]<>|~$]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")


def escaped(text: str) -> str:
    """Any text as Markdown that shows it as it is, within a line or a table's cell."""
    return _SPECIAL.sub(r"\\\g<0>", plain(text))


def code(text: object) -> Markdown:
    """Any text in code type, within a line or a table's cell."""
    line = plain(str(text))
    return Markdown(escaped(line) if not line or "`" in line or "|" in line else f"`{line}`")


def strong(text: Inline) -> Markdown:
    """Bold."""
    return Markdown("**{}**").format(text)


def joined(parts: Iterable[Inline], between: str = ", ") -> Markdown:
    """The parts with ``between`` between them, which is Markdown."""
    return Markdown(between).join(parts)


def text_of(line: Markdown) -> str:
    """What a reader sees of a line, without mark-up."""
    (inline,) = MarkdownIt("commonmark").parseInline(line)
    return "".join(part.content for part in inline.children or ())


def table_lines(header: Sequence[Inline], rows: Iterable[Sequence[Inline]], numbers: Collection[int] = ()) -> list[str]:
    """A table's lines, padded to be read as they are; the columns in ``numbers`` are aligned to the right."""
    cells = [[str(Markdown.escape(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = [c.rjust(w) if i in numbers else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (w - 1) + (":" if i in numbers else "-") for i, w in enumerate(widths)]
    return [line(cells[0]), line(rule), *map(line, cells[1:])]
