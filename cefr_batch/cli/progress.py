"""The progress of a transfer: a bar with rate and time left on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from cefr_batch.cli.show import console, duration, size

if TYPE_CHECKING:
    from rich.console import Console

_LINE_SECONDS = 10.0


@contextmanager
def byte_progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give a function that takes the bytes transferred since its last call. ``total`` is in bytes; shown on standard
    error.
    """
    screen = console(to_stderr=True)
    with _bar(screen, label, total) if screen.is_terminal else _lines(label, total) as advance:
        yield advance


@contextmanager
def _bar(screen: Console, label: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=screen, transient=True) as bar:
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
            left = duration((total - done) / rate)
            click.echo(f"{label}: {size(done)} of {size(total)}, {size(rate)}/s, {left} left", err=True)

    yield advance
