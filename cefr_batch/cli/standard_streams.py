"""Standard input, output and error as programs find them: closed by a daemon, or on a full disk."""

from __future__ import annotations

import os
import sys
from errno import EBADF, EDQUOT, EIO, ENOSPC

_OUTPUT_ERRORS = {ENOSPC, EDQUOT, EIO, EBADF}


def open_closed_streams() -> None:
    """Open the null device in place of standard streams that are closed: else the next file that is opened would be taken
    for one of them. Idempotent."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:  # the lowest free number is this one
            os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
        setattr(sys, name, open(number, mode, encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115


def output_failed(exc: OSError) -> bool:
    """Whether this came from writing to standard output, and not to a file."""
    return exc.filename is None and exc.errno in _OUTPUT_ERRORS


def drop_output() -> None:
    """Send what is still buffered nowhere: writing it again as the program ends would fail again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
