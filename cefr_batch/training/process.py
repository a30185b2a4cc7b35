"""What the processes of a job's stages share: they end with the job, log to it, and say why they failed."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import traceback

from cefr_batch.errors import CefrBatchError, Interrupted, JobFailed, OutOfMemory, Paused, UsageError
from cefr_batch.files import out_of_space
from cefr_batch.records.control import StageError
from cefr_batch.records.document import read_file, write_file
from cefr_batch.records.layout import WorkDir

_BUG = "bug"  # the kind of an error that is not one of ours
EXIT_DISK_FULL = 74  # EX_IOERR of sysexits.h: where even the reason could not be written


def start_process(parent: int) -> None:
    """Set up a process that works for a job: it is killed when its parent ends, and logs to standard output."""
    kill_with_parent(parent)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger("cefr_batch")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False  # Unsloth gives the root logger a handler, and each line would stand twice


def kill_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, so that nothing runs unsupervised (Linux).

    Exits with code 1 if the parent has ended already.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # prctl(2)
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def write_error(work: WorkDir, exc: Exception) -> int:
    """Record for the job why a stage ended, and return the exit code. Of several failing processes the first one counts;
    the others fail because it did."""
    error = _explained(work, exc)
    if error.kind == _BUG:
        traceback.print_exc()
    if not work.error.is_file():
        try:
            write_file(work.error, error)
        except OSError:
            return EXIT_DISK_FULL
    return error.exit_code


def _explained(work: WorkDir, exc: Exception) -> StageError:
    if isinstance(exc, CefrBatchError):
        code = UsageError.exit_code if exc.permanent else exc.exit_code
        return StageError(kind=type(exc).__name__, message=str(exc), exit_code=code)
    if out_of_space(exc):
        return StageError(kind=JobFailed.__name__, message=disk_full(work), exit_code=JobFailed.exit_code)
    if isinstance(exc, ModuleNotFoundError) and exc.name:
        missing = f"the Python package {exc.name.partition('.')[0]} is missing where the job runs; install it there"
        hint = "(pip install 'cefr-batch[train]'), or use the container image"
        return StageError(kind=JobFailed.__name__, message=f"{missing} {hint}", exit_code=UsageError.exit_code)
    return StageError(kind=_BUG, message=f"{type(exc).__name__}: {exc}".strip(), exit_code=1)


def disk_full(work: WorkDir) -> str:
    """What to say where a job's disk is full."""
    return (
        f"the disk of the work folder {work.root} is full, or over its quota; free some space, or name a folder on a larger "
        f"disk with --work or CEFR_BATCH_WORK, then `cefr-batch resume {work.root.name}` continues from the last checkpoint"
    )


def paused(step: int, steps: int) -> Paused:
    """The error that ends training after the step that was asked for."""
    return Paused(f"training paused after step {step} of {steps}, as asked; its checkpoint is written")


def read_error(work: WorkDir, stage: str) -> CefrBatchError | None:
    """The error that a process of this stage recorded; None if none did. ``OutOfMemory``, ``Interrupted`` and ``Paused``, on
    which the job acts, keep their type; all others become ``JobFailed``."""
    if not work.error.is_file():
        return None
    error = read_file(StageError, work.error)
    kinds = {kind.__name__: kind for kind in (OutOfMemory, Interrupted, Paused)}
    if error.kind in kinds:
        return kinds[error.kind](error.message)
    if error.kind == _BUG:
        return JobFailed(f"stage {stage} stopped with {error.message}; see the log")
    return JobFailed(error.message, permanent=error.exit_code == UsageError.exit_code)
