"""Where a job's log goes: to standard output, and to the log file of its attempt."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from typing_extensions import override


class Console(logging.StreamHandler):  # type: ignore[type-arg]
    """Standard output. A closed terminal must not hide how the job ends."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        pass


class LogFile(logging.FileHandler):
    """The log of an attempt. A full disk must not hide how the job ends."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        pass

    @override
    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def logging_to(handler: logging.Handler, *, alone: bool = False) -> Iterator[None]:
    """Send what the package logs, from INFO on, to this handler too, or to it ``alone``; close it at the end."""
    package = logging.getLogger("cefr_batch")
    level, others = package.level, package.handlers
    handler.setFormatter(logging.Formatter("%(message)s"))
    package.handlers = [handler] if alone else [*others, handler]
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.handlers = others
        package.setLevel(level)
        handler.close()
