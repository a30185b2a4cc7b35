"""A message to the user while something takes long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

import click

SLOW_SECONDS = 3.0
SLOW_START = (
    "Still working: a tokenizer may have to be downloaded or a GGUF file converted (once), or the cluster or the "
    "store is slow."
)


@contextmanager
def notice_if_slow(text: str = SLOW_START, *, after_seconds: float | None = None) -> Iterator[None]:
    """Say on standard error that work goes on, if what runs within this takes longer (default: 3)."""
    timer = Timer(SLOW_SECONDS if after_seconds is None else after_seconds, click.echo, [text], {"err": True})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
