"""How far a transfer is: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from cefr_batch.report.text import size

_LINE_SECONDS = 10.0


@contextmanager
def byte_progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields what takes the number of bytes that were done since. Writes to standard error."""
    from rich.console import Console

    console = Console(stderr=True)
    with _bar(console, label, total) if console.is_terminal else _lines(label, total) as advance:
        yield advance


@contextmanager
def _bar(console: object, label: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console, transient=True) as bar:  # type: ignore[arg-type]
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def _lines(label: str, total: int) -> Iterator[Callable[[int], None]]:
    done = 0
    started = shown = time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        now = time.monotonic()
        if now - shown >= _LINE_SECONDS and done:
            shown = now
            rate = done / (now - started)
            left = f"{(total - done) / rate:.0f} s left"
            click.echo(f"{label}: {size(done)} of {size(total)}, {size(rate)}/s, {left}", err=True)

    yield advance
