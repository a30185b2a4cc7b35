"""Times and sizes in a few words; foreign text in Markdown, and Markdown's tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence


def decimal(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def short_duration(seconds: float, units: tuple[str, str, str] = ("h", "min", "s")) -> str:
    """``6 min 42 s``, ``5 min``"""
    hours, rest = divmod(round(seconds), 3600)
    parts = zip((hours, *divmod(rest, 60)), units, strict=True)
    return " ".join(f"{n} {unit}" for n, unit in parts if n) or f"0 {units[-1]}"


def size(n_bytes: float, number: Callable[[float, int], str] = decimal) -> str:
    """``1.4 GB``, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.95:
            return f"{number(n_bytes, 0 if unit == 'B' else 1)} {unit}"
        n_bytes /= 1000
    return f"{number(n_bytes, 1)} TB"


def plain(text: str) -> str:
    """One line of printable characters, whatever came in: a terminal's control sequences must not pass."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """Blanks for white space, and a sign in the place of every other character that is not printable."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


# What would start something inside a line or end a table's cell. Not all punctuation: the report is also read as it is.
_SPECIAL = re.compile(r"[\\`*\[\]<>|~$]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")


def escaped(text: str) -> str:
    """Foreign text as Markdown that shows it as it is, within a line or a table's cell."""
    return _SPECIAL.sub(r"\\\g<0>", plain(text))


def code(text: str) -> str:
    """Foreign text in code type, within a line or a table's cell."""
    text = plain(text)
    return escaped(text) if not text or "`" in text or "|" in text else f"`{text}`"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[int] = ()) -> list[str]:
    """A table's lines and an empty one, padded to be read as it is; the columns in ``numbers`` align to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [c.rjust(w) if i in numbers else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (w - 1) + (":" if i in numbers else "-") for i, w in enumerate(widths)]
    return [line(cells[0]), line(rule), *map(line, cells[1:]), ""]
