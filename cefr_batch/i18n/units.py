"""Durations and sizes in a few words."""

from __future__ import annotations

from collections.abc import Callable


def decimal(value: float, digits: int) -> str:
    """``1,800.0``"""
    return f"{value:,.{digits}f}"


def short_duration(seconds: float, units: tuple[str, str, str] = ("h", "min", "s")) -> str:
    """``6 min 42 s``, ``5 min``; whole seconds."""
    hours, rest = divmod(round(seconds), 3600)
    parts = zip((hours, *divmod(rest, 60)), units, strict=True)
    return " ".join(f"{n} {unit}" for n, unit in parts if n) or f"0 {units[-1]}"


def size(n_bytes: float, number: Callable[[float, int], str] = decimal) -> str:
    """``1.4 GB``, in powers of 1000. ``number`` writes a value with so many decimals."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.95:
            return f"{number(n_bytes, 0 if unit == 'B' else 1)} {unit}"
        n_bytes /= 1000
    return f"{number(n_bytes, 1)} TB"
