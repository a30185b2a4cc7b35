"""The callable that submitit runs on the node: it starts the real job and, on a signal, stops it after a checkpoint and has
it requeued. It runs outside of the job's container, where Slurm's commands are.
"""

from __future__ import annotations

import getpass
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from cefr_batch.errors import EXIT_INTERRUPTED

STOPPED = "cefr-batch: stopped: "  # before the reason for which a job ended, in what it prints

# Exit codes of a job that stopped after a checkpoint, or that a signal ended before it could handle one (a shell or srun
# turns signal n into 128 + n).
_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
_STOPPED = (EXIT_INTERRUPTED, *(-number for number in _SIGNALS), *(128 + number for number in _SIGNALS))


@dataclass
class SlurmJob:
    """Runs ``command`` with the variables in the JSON file ``credentials`` (a path, so that no secret is in the pickle).

    ``stop_signal`` asks the command to stop: SIGUSR2 where it is an ``srun``, which answers SIGTERM by killing its tasks.
    """

    command: tuple[str, ...]
    credentials: str | None
    stop_signal: int = signal.SIGTERM
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _stopping: bool = field(default=False, repr=False)

    def __call__(self) -> None:
        """Run the command and block until it ends; exit with its exit code unless that is 0.

        submitit calls ``checkpoint`` on the signal of a time limit. Most clusters preempt with SIGTERM, which submitit
        ignores, so it is handled here. SIGINT is ``cefr-batch cancel``.
        """
        before = [(number, signal.signal(number, self._on_signal)) for number in (signal.SIGTERM, signal.SIGINT)]
        requeue = signal.getsignal(signal.SIGUSR2)
        if callable(requeue):  # submitit's
            signal.signal(signal.SIGUSR2, partial(self._requeue_or_say_why, requeue))
        try:
            environment = {**_user(), **os.environ, **_read(self.credentials)}
            self._process = subprocess.Popen(self.command, env=environment)
        except (OSError, ValueError) as exc:
            self._end(1, f"the job cannot be started on this node: {exc}")
        code = _wait(self._process.pid)
        for number, handler in before:
            signal.signal(number, handler)
        if code:
            print(f"cefr-batch: the job ended with exit code {code}", file=sys.stderr, flush=True)
            self._end(_exit_code(code))
        self._forget_credentials()

    def checkpoint(self) -> Any:
        """Stop the command and block until its checkpoint is stored. Returns what submitit is to requeue.

        Exits instead if the command finished or failed by itself: submitit would requeue it otherwise.
        """
        self._stopping = True
        code = self._stop()
        if code not in _STOPPED:
            self._end(_exit_code(code))
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(SlurmJob(self.command, self.credentials, self.stop_signal))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None, "_stopping": False}

    def _on_signal(self, number: int, frame: object) -> None:
        if self._stopping:
            return
        if number == signal.SIGTERM and _was_preempted():
            os.kill(os.getpid(), signal.SIGUSR2)  # submitit's signal: checkpoint and requeue
            return
        self._stopping = True
        code = self._stop()
        if number == signal.SIGINT:
            self._forget_credentials()
        sys.exit(_exit_code(code))

    def _requeue_or_say_why(
        self, requeue: Callable[[int, FrameType | None], Any], number: int, frame: FrameType | None
    ) -> None:
        """Have submitit requeue the job; if it cannot be, end with the reason. Its checkpoint is stored by then."""
        from submitit.core.utils import UncompletedJobError

        try:
            requeue(number, frame)
            return
        except UncompletedJobError:
            self._forget_credentials()
            why = (
                "it reached its time limit more often than max_restarts in the site file allows; raise `time` or "
                "max_restarts"
            )
        except subprocess.CalledProcessError as exc:
            why = f"Slurm refused it ({shlex.join(exc.cmd)} failed, see above); is requeueing allowed here?"
        except (OSError, subprocess.TimeoutExpired) as exc:
            why = f"Slurm did not answer ({exc})"
        self._end(EXIT_INTERRUPTED, f"not requeued: {why}")

    def _end(self, code: int, why: str = "") -> NoReturn:
        """Exit. A job that a signal has stopped keeps its credentials: Slurm may start it again by itself. ``why``: the
        reason to print."""
        if code not in _STOPPED:
            self._forget_credentials()
        if why:
            print(f"{STOPPED}{why}", file=sys.stderr, flush=True)
        sys.exit(code)

    def _forget_credentials(self) -> None:
        """Remove the file: the job has ended for good."""
        if self.credentials:
            with suppress(OSError):
                Path(self.credentials).unlink(missing_ok=True)

    def _stop(self) -> int:
        """Signal the command and return its exit code once it has ended."""
        if self._process is None:
            return EXIT_INTERRUPTED
        os.kill(self._process.pid, self.stop_signal)  # not send_signal, which would reap a process that has ended
        return _wait(self._process.pid)


def _exit_code(code: int) -> int:
    """A child's exit code as this process's: signal n becomes 128 + n."""
    return code if code >= 0 else 128 - code


def _wait(pid: int) -> int:
    """The exit code of a child, negative for a signal. Does not reap it: a signal handler may wait in the middle of another
    wait (where ``Popen.wait`` would deadlock)."""
    while True:
        result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        if result:
            return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def _was_preempted() -> bool:
    """Whether a SIGTERM came from a preemption. The job is RUNNING (or SIGNALING) until its grace time ends then; one that
    was cancelled or has ended is COMPLETING, and must not be requeued. True if Slurm does not answer."""
    job = os.environ["SLURM_JOB_ID"]
    try:
        state = subprocess.run(
            ["squeue", "--noheader", "--jobs", job, "--format=%T"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return True
    return state in ("RUNNING", "SIGNALING")


def _user() -> dict[str, str]:
    """USER, which charliecloud needs and a batch job may lack."""
    try:
        return {"USER": getpass.getuser()}
    except (KeyError, OSError):  # the user's id has no name here
        return {}


def _read(credentials: str | None) -> dict[str, str]:
    if credentials is None:
        return {}
    found: dict[str, str] = json.loads(Path(credentials).read_text(encoding="utf-8"))
    return found
