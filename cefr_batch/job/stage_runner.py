"""Runs a job's heavy stages in a child process, and says why that failed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

from cefr_batch.errors import EXIT_INTERRUPTED, CefrBatchError, Interrupted, JobFailed
from cefr_batch.job import child
from cefr_batch.job.environment import stage_environment
from cefr_batch.records.layout import WorkDir
from cefr_batch.training.process import EXIT_DISK_FULL, disk_full, read_error

log = logging.getLogger(__name__)

_WAKE_SECONDS = 0.5
STOP_SECONDS = 120.0  # for the step that is under way and its checkpoint; several processes of training have 60


class StageRunner:
    """One child process at a time. ``terminate`` may be called from a signal handler or another thread."""

    def __init__(self, work: WorkDir, gpus: int) -> None:
        self._work, self._gpus = work, gpus
        self._child: subprocess.Popen[str] | None = None
        self._terminated = False

    def run(self, stages: Sequence[str]) -> int:
        """Run the stages in order, log what their process prints, and return its exit code. Blocks."""
        for stale in (self._work.progress, self._work.error):
            stale.unlink(missing_ok=True)
        self._child = subprocess.Popen(
            [sys.executable, "-m", child.__name__, str(self._work.root), str(os.getpid()), *stages],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=stage_environment(self._work, self._gpus),
            start_new_session=True,
        )
        if self._terminated:  # while it was being started
            self.terminate()
        code = _awaited(self._child)
        self._child = None
        return code

    def terminate(self) -> None:
        """Ask the child to stop, as well as any that is started later, and kill it with its processes if it has not done so
        after ``STOP_SECONDS``. Does not wait."""
        self._terminated = True
        if (process := self._child) is not None:
            process.terminate()
            late = threading.Timer(STOP_SECONDS, _kill, (process,))
            late.daemon = True
            late.start()


def _awaited(process: subprocess.Popen[str]) -> int:
    """Log what a process prints until it has ended. In a thread: Python runs the handlers of signals in the main thread,
    between its instructions, so where that waits for a line, one that came just before or to another thread is not heard
    until the next line, and a stage that hangs prints none."""
    with ThreadPoolExecutor(1, thread_name_prefix="stage output") as pool:
        ended = pool.submit(_log_output, process)
        while not ended.done():
            wait([ended], timeout=_WAKE_SECONDS)
        return ended.result()


def _log_output(process: subprocess.Popen[str]) -> int:
    with process:
        for line in process.stdout or ():
            log.info("%s", line.rstrip("\n"))
    return process.returncode


def _kill(process: subprocess.Popen[str]) -> None:
    """End a stage that does not stop by itself: one that hangs, or whose step takes too long. Its checkpoint counts."""
    if process.poll() is None:
        log.warning("cefr-batch: the stage did not stop within %d seconds, so it is killed", STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it leads a session of its own


def failure(work: WorkDir, stage: str, code: int) -> CefrBatchError | None:
    """Why a stage's process ended with this exit code; None where it was asked to stop. ``OutOfMemory`` can be retried;
    ``Paused`` is no failure."""
    # A scheduler may signal all processes at once, or at first the stage's alone.
    if code in (-signal.SIGTERM, -signal.SIGUSR2, EXIT_INTERRUPTED):
        return None
    if error := read_error(work, stage):
        return error
    if code == EXIT_DISK_FULL:
        return JobFailed(disk_full(work))
    if code == -signal.SIGKILL:
        return JobFailed(
            f"stage {stage} was killed by the system, most likely because memory ran out; "
            "ask for more memory or lower training.batch_size"
        )
    return JobFailed(f"stage {stage} ended with exit code {code}; see the log")


def interrupted(work: WorkDir, stage: str) -> Interrupted:
    """The error of a job that was asked to stop. It names no next step: who starts the next job, if any, its scheduler and
    ``cefr-batch status`` know."""
    steps = work.checkpoints()
    at = f"its last checkpoint is of step {steps[-1]}" if steps else "it had no checkpoint yet"
    return Interrupted(f"stopped on request in stage {stage}; {at}")
