"""How numbers and foreign text look in a report."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timezone

NONE = "–"


def count(value: int) -> str:
    return f"{value:,}"


def figure(value: float | None, digits: int = 2) -> str:
    """A loss, a perplexity: ``0.43``; ``–`` if there is none."""
    return NONE if value is None else f"{value:,.{digits}f}"


def percent(value: float) -> str:
    """``68.7%``; what is not zero never looks like it."""
    if 0 < abs(value) < 0.05:
        return "<0.1%" if value > 0 else ">-0.1%"
    return f"{value:.1f}%"


def short_duration(seconds: float) -> str:
    """``6 min 42 s``"""
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    parts = [(hours, "h"), (minutes, "min"), (left, "s")]
    first = next((i for i, (n, _) in enumerate(parts) if n), 2)
    return " ".join(f"{n} {unit}" for n, unit in parts[first:])


def duration(seconds: float) -> str:
    """``6 min 42 s (402.4 s)``"""
    exact = f"{seconds:.1f} s"
    return exact if seconds < 60 else f"{short_duration(seconds)} ({exact})"


def time(stamp: str) -> str:
    """``2025-10-26 13:07 UTC``; a stamp that is no time stays as it is."""
    try:
        parsed = datetime.fromisoformat(stamp)
    except ValueError:
        return stamp
    return f"{parsed.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC" if parsed.tzinfo else stamp


def size(n_bytes: float) -> str:
    """``1.4 GB``, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.95:
            return f"{n_bytes:.{0 if unit == 'B' else 1}f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} TB"


def plain(text: str) -> str:
    """One line of printable characters, whatever came in: a terminal's control sequences must not pass."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


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
