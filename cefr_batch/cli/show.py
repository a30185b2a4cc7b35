"""Runs as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from cefr_batch.launch.state import RunState

_HEADINGS = ("RUN", "STATE", "STAGE", "STEP", "LOSS", "EVAL LOSS", "TIME LEFT")


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows as aligned lines, two spaces between columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def progress_table(states: Iterable[RunState]) -> list[str]:
    """A line per run, under headings; then the reasons."""
    states = list(states)
    lines = columns([_HEADINGS, *(_progress(state) for state in states)])
    return lines + [f"{state.run}: {state.reason}" for state in states if state.reason]


def progress_line(state: RunState) -> str:
    """One run's progress in a line, for logs."""
    values = (f"{name} {value}" for name, value in zip(_HEADINGS[2:], _progress(state)[2:], strict=True) if value)
    parts = [f"{state.run}: {state.state}", *(text.lower() for text in values)]
    return ", ".join(parts) + (f" ({_first_line(state.reason)})" if state.reason else "")


def as_dicts(states: Iterable[RunState]) -> list[dict[str, Any]]:
    """For ``--json``."""
    return [asdict(state) | {"state": state.state.value} for state in states]


def _progress(state: RunState) -> tuple[str, ...]:
    step = "" if state.step is None else f"{state.step}/{state.steps}"
    loss, eval_loss = ("" if value is None else f"{value:.3f}" for value in (state.loss, state.eval_loss))
    left = "" if state.eta_seconds is None else _duration(state.eta_seconds)
    return (state.run, state.state.value, state.stage or "", step, loss, eval_loss, left)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
