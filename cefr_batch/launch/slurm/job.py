"""What a SLURM job is to submitit: a small importable callable that starts the real job and, on a signal, stops it
gently and has it requeued. It runs on the node itself, where Slurm's commands are, also when the job is in a container.
"""

from __future__ import annotations

import getpass
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cefr_batch.errors import EXIT_INTERRUPTED

# Stopped with a checkpoint, or by a signal that came before the job could catch it (a shell or srun says it as 128 + n).
_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
_STOPPED = (EXIT_INTERRUPTED, *(-number for number in _SIGNALS), *(128 + number for number in _SIGNALS))


@dataclass
class SlurmJob:
    """``command`` with the variables of the file ``credentials`` (a path, so that no secret is in the pickle).

    ``stop_signal`` asks it to stop: SIGUSR2 where it is an ``srun``, which would answer a SIGTERM by killing its tasks.
    """

    command: tuple[str, ...]
    credentials: str | None
    stop_signal: int = signal.SIGTERM
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _stopping: bool = field(default=False, repr=False)

    def __call__(self) -> None:
        """Run the command; leave with its exit code unless that is 0.

        submitit has the signal of a time limit call ``checkpoint``. Preemption on most clusters is a SIGTERM, which it
        passes over, so that is caught here. SIGINT is ``cefr-batch cancel``.
        """
        before = [(number, signal.signal(number, self._on_signal)) for number in (signal.SIGTERM, signal.SIGINT)]
        try:
            environment = {**_user(), **os.environ, **_read(self.credentials)}
            self._process = subprocess.Popen(self.command, env=environment)
        except (OSError, ValueError) as exc:
            sys.exit(f"cefr-batch: the job cannot be started on this node: {exc}")
        code = _wait(self._process.pid)
        for number, handler in before:
            signal.signal(number, handler)
        if code:
            print(f"cefr-batch: the job ended with exit code {code}", file=sys.stderr, flush=True)
            sys.exit(code if code > 0 else 128 - code)

    def checkpoint(self) -> Any:
        """Stop the job and wait until its checkpoint is stored. Returns what to requeue; exits where nothing is left to
        do, or where it failed: submitit would requeue it otherwise."""
        self._stopping = True
        code = self._stop()
        if code not in _STOPPED:
            sys.exit(code if code >= 0 else 128 - code)
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(SlurmJob(self.command, self.credentials, self.stop_signal))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None, "_stopping": False}

    def _on_signal(self, number: int, frame: object) -> None:
        if self._stopping:
            return
        if number == signal.SIGTERM and _lives_on():
            os.kill(os.getpid(), signal.SIGUSR2)  # submitit's signal: checkpoint and requeue
            return
        self._stopping = True
        code = self._stop()
        sys.exit(code if code >= 0 else 128 - code)

    def _stop(self) -> int:
        if self._process is None:
            return EXIT_INTERRUPTED
        os.kill(
            self._process.pid, self.stop_signal
        )  # Popen's send_signal would take the exit code of one that has ended
        return _wait(self._process.pid)


def _wait(pid: int) -> int:
    """The exit code of a child, negative for a signal. Leaves the child to be waited for again: a signal handler may
    wait in the middle of another wait (``Popen.wait`` would deadlock there)."""
    while True:
        result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        if result:
            return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def _lives_on() -> bool:
    """Whether Slurm would let the job go on. A preempted job is RUNNING (or SIGNALING) until its grace time ends; one
    that was cancelled or is at its end is COMPLETING, and requeueing would bring it back to life."""
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
    """charliecloud wants USER, which a batch job need not have."""
    try:
        return {"USER": getpass.getuser()}
    except (KeyError, OSError):  # a number without a name
        return {}


def _read(credentials: str | None) -> dict[str, str]:
    if credentials is None:
        return {}
    found: dict[str, str] = json.loads(Path(credentials).read_text(encoding="utf-8"))
    return found
