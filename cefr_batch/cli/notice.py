"""A word to the user while something takes long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

import click

_SECONDS = 3.0
_TEXT = "Still working: a model's tokenizer may have to be downloaded, or a GGUF file converted, once; or the place is slow."


@contextmanager
def notice_if_slow() -> Iterator[None]:
    """Says so on standard error when getting a model takes more than a few seconds."""
    timer = Timer(_SECONDS, click.echo, [_TEXT], {"err": True})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
