"""How sizes, durations, tables and runs look as text: the one place that formats them.

On a terminal tables are styled and fit its width; elsewhere they are plain text, and nothing is wrapped or cut.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import humanize

from cefr_batch.cli.printable import printable, shortened
from cefr_batch.records.timestamps import age_seconds
from cefr_batch.runner import RunState, State

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from cefr_batch.config.schema import RunSpec

_HEADINGS = ("RUN", "STATE", "STAGE", "STEP", "LOSS", "EVAL LOSS", "TRAINING LEFT")
_LONGEST_SECONDS = 100 * 365 * 86400.0
_UNLIMITED = 100_000  # columns
_ON_TERMINAL = ("RUN", "STATE", "STAGE", "LOSS", "EVAL", "TRAINING\nLEFT", "ELAPSED")
_WIDE = 100  # columns of a terminal that has room for bars
_BAR = 12  # columns
_TRAINING = ("train", "publish")  # stages whose steps are those of training; others count examples and texts
_COLORS = {
    State.SUCCEEDED: "green",
    State.FAILED: "bold red",
    State.RUNNING: "cyan",
    State.PENDING: "dim",
    State.PREEMPTED: "yellow",
    State.PAUSED: "yellow",
    State.CANCELLED: "yellow",
    State.UNKNOWN: "magenta",
}


def size(n_bytes: float) -> str:
    """``1.4 GB``, in powers of 1000."""
    return humanize.naturalsize(n_bytes)


def duration(seconds: float) -> str:
    """``6 minutes and 42 seconds``; from an hour on without the seconds; ``?`` for what no run takes."""
    if not 0 <= seconds < _LONGEST_SECONDS:
        return "?"
    unit = "seconds" if seconds < 3600 else "minutes"
    return humanize.precisedelta(timedelta(seconds=round(seconds)), minimum_unit=unit, format="%d")


def table(
    rows: Iterable[Sequence[RenderableType]], headings: Sequence[str] = (), *, breaks_in: int | None = None
) -> Table:
    """Columns, two spaces apart, under headings if there are any. A cell may have several lines. A narrow terminal does not
    break the lines of the first column or, with ``breaks_in``, those of any column but that one."""
    from rich.table import Table

    rows = list(rows)
    columns = headings or [""] * len(rows[0])
    grid = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(headings))
    for column in grid.columns[:1] if breaks_in is None else grid.columns:
        column.no_wrap = True
    if breaks_in is not None:
        grid.columns[breaks_in].no_wrap = False
    for row in rows:
        grid.add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in row))
    return grid


def sources(spec: RunSpec, profile: str | None) -> str:
    """Which files a run's settings come from, and its data: ``jobs/b1.yaml and …/smoke.yaml; data: my_words.csv``."""
    from cefr_batch.config.schema import STARTER

    given = [spec.data.source] if spec.data.source else [spec.data.train or "", spec.data.eval or ""]
    data = ("the starter corpus" if one == STARTER else short_path(Path(one)) for one in given)
    return f"{' and '.join(settings_files(spec, profile))}; data: {' and '.join(data)}"


def settings_files(spec: RunSpec, profile: str | None) -> list[str]:
    """The job files that a run's settings come from, as paths from the current folder where they lie in it."""
    from cefr_batch.config.load import spec_files

    return [short_path(path) for path in spec_files(spec.level.value, profile)]


def short_path(path: Path) -> str:
    """A path from the current folder where it lies in it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else str(path)


def console(*, to_stderr: bool = False) -> Console:
    """A console that writes text as it is: no markup, no emoji names. A terminal is what ``isatty`` says."""
    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    plain = {"markup": False, "emoji": False, "highlight": False}
    return Console(stderr=to_stderr, force_terminal=stream.isatty(), **plain)  # type: ignore[arg-type]


def show(*parts: RenderableType, to_stderr: bool = False) -> None:
    """Print tables and lines, one below the other."""
    out = console(to_stderr=to_stderr)
    shown = [printable(part) if isinstance(part, str) else part for part in parts]
    if out.is_terminal:
        out.print(*shown, sep="\n")
    else:
        click.echo(as_text(*shown), err=to_stderr)


def as_text(*parts: RenderableType) -> str:
    """Tables and lines as plain text of any width."""
    from rich.console import Console

    text = StringIO()
    Console(file=text, width=_UNLIMITED, markup=False, emoji=False, highlight=False, color_system=None).print(
        *parts, sep="\n"
    )
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def progress_table(states: Sequence[RunState], screen: Console | None = None) -> list[RenderableType]:
    """A row per run, then the reasons. On a ``screen`` that is a terminal with colours, the time since each run was
    submitted and, where it is wide enough, bars."""
    reasons = [f"{state.run}: {state.reason}" for state in states if state.reason]
    if screen is None or not screen.is_terminal:
        shown = table(map(_progress, states), _HEADINGS)
    else:
        wide = screen.width >= _WIDE
        headings = (*_ON_TERMINAL, *([""] if wide else []))
        shown = table([_on_terminal(state, wide) for state in states], headings, breaks_in=2)
    return [shown, *(printable(shortened(reason)) for reason in reasons)]


def progress_line(state: RunState) -> str:
    """One run's progress in a line, for logs."""
    values = (f"{name} {value}" for name, value in zip(_HEADINGS[2:], _progress(state)[2:], strict=True) if value)
    parts = [f"{state.run}: {state.state}", *(text.lower() for text in values)]
    return printable(", ".join(parts) + (f" ({first_line(state.reason)})" if state.reason else ""))


def colored(state: State) -> Text:
    """A run's state in its colour, where the terminal has colours."""
    from rich.text import Text

    return Text(state.value, _COLORS.get(state, ""))


def as_dicts(states: Iterable[RunState]) -> list[dict[str, Any]]:
    """The runs' states for ``--json``."""
    return [asdict(state) | {"state": state.state.value} for state in states]


def first_line(text: str) -> str:
    """The text up to its first line break."""
    return text.partition("\n")[0]


def _progress(state: RunState) -> tuple[str, ...]:
    training = state.stage in (*_TRAINING, None)
    done = "" if state.step is None else f"{state.step}/{state.steps}"
    stage = state.stage or "" if training or not done else f"{state.stage} ({done})"
    loss, eval_loss = (
        "" if value is None else f"{value:.3f}" if abs(value) < 1e6 else f"{value:.3g}"
        for value in (state.loss, state.eval_loss)
    )
    left = "" if state.eta_seconds is None else duration(state.eta_seconds)
    return (state.run, state.state.value, stage, done if training else "", loss, eval_loss, left)


def _on_terminal(state: RunState, wide: bool) -> tuple[RenderableType, ...]:
    run, _, stage, step, loss, eval_loss, _ = _progress(state)
    where = f"{stage}, step {step}" if stage and step else stage
    left = "" if state.eta_seconds is None else _clock(state.eta_seconds)
    return (run, colored(state.state), where, loss, eval_loss, left, _elapsed(state), *([_bar(state)] if wide else []))


def _clock(seconds: float) -> str:
    """``1:06:52``, ``6:42``"""
    if not 0 <= seconds < _LONGEST_SECONDS:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _bar(state: RunState) -> RenderableType:
    """How much of the stage is done; one that moves where that is not known; nothing for what does not run."""
    from rich.progress_bar import ProgressBar

    if state.state is not State.RUNNING:
        return ""
    known = state.step is not None and bool(state.steps)
    return ProgressBar(total=state.steps if known else None, completed=state.step or 0, width=_BAR, pulse=not known)


def _elapsed(state: RunState) -> str:
    """The time since the run was submitted, until it ended; empty if that is not known."""
    if state.submitted_at is None or (state.settled and state.updated_at is None):
        return ""
    seconds = age_seconds(state.submitted_at)
    if state.settled and state.updated_at:
        seconds -= age_seconds(state.updated_at)
    return _clock(seconds) if seconds >= 0 else ""
