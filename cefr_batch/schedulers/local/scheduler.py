"""Runs as detached processes of this machine, one at a time."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed
from typing_extensions import override

from cefr_batch.errors import SchedulerError
from cefr_batch.files import existing_parent, tail
from cefr_batch.records import layout
from cefr_batch.schedulers.base import Check, Job, JobGroup, JobSpec, Observation, Scheduler, State, missing_packages
from cefr_batch.schedulers.local.queue import QueueSlot, jobs_ahead, why_no_locks
from cefr_batch.store import same_store

_HANDLE = re.compile(r"local://(?P<host>[^/]+)/(?P<pid>[0-9]{1,10})")


@dataclass(frozen=True)
class LocalRequest:
    """A process to start: its command, its work folder and the file for its output. It gets this process's environment."""

    command: tuple[str, ...]
    work: Path
    log: Path


class LocalScheduler(Scheduler[tuple[LocalRequest, ...]]):
    """This machine. Jobs run as this user's processes, outlive the terminal and wait for those submitted before.

    Handles: ``local://HOST/PID``.
    """

    scheme = "local"

    @override
    def render(self, group: JobGroup) -> tuple[LocalRequest, ...]:
        return tuple(self.process(spec) for spec in group.jobs)

    def process(self, spec: JobSpec) -> LocalRequest:
        """The process for one job. Pure."""
        work_root = Path(os.path.abspath(layout.default_work_root()))  # noqa: PTH100 (keeps symlinks)
        work = layout.WorkDir.of(work_root, spec.store_url, spec.run)
        command = (sys.executable, "-m", "cefr_batch", *spec.command(str(work_root)), "--queued")
        return LocalRequest(command, work.root, work.launch_log)

    @override
    def describe(self, request: tuple[LocalRequest, ...]) -> str:
        lines = []
        for process in request:
            lines += [
                f"command: {shlex.join(process.command)}",
                f"folder:  {process.work}",
                f"output:  {process.log}",
            ]
        return "\n".join([*lines, "queue:   after the jobs submitted before on this machine, one at a time"])

    @override
    def backends(self) -> Sequence[str]:
        return [name for name in ("unsloth", "peft") if find_spec(name)]

    @override
    def check(self, backends: Iterable[str], store_url: str) -> list[Check]:
        folders = {"work folder (CEFR_BATCH_WORK)": layout.default_work_root(), "queue": layout.local_queue()}
        checks = [*(_packages(backend) for backend in backends), _trackers()]
        checks += [_writable(name, path) for name, path in folders.items()]
        if not checks[-1].problem:
            checks.append(_lockable(layout.local_queue()))
        return checks

    @override
    def submit(self, request: tuple[LocalRequest, ...]) -> list[str]:
        handles: list[str] = []
        try:
            for process in request:
                handles.append(self.start(process))
        except BaseException:  # Ctrl-C too: all start or none does
            for handle in handles:
                with suppress(ProcessLookupError):
                    os.kill(_parse(handle)[1], signal.SIGTERM)
            raise
        return handles

    def start(self, request: LocalRequest) -> str:
        """Start one process and return its handle. Does not wait for its turn. Raises ``SchedulerError``."""
        try:
            request.work.mkdir(parents=True, exist_ok=True)
            slot = QueueSlot.take()
        except OSError as exc:
            raise SchedulerError(
                f"cannot prepare a local job: {exc}; free some space, give access, or set CEFR_BATCH_WORK and "
                "CEFR_BATCH_CACHE to other folders"
            ) from exc
        try:
            process = _start(request, slot)
        except OSError as exc:
            slot.release()
            raise SchedulerError(f"cannot start {shlex.join(request.command)}: {exc.strerror or exc}") from exc
        with suppress(OSError):  # the job does the same as soon as it can
            slot.assign(process.pid)
        threading.Thread(target=process.wait, daemon=True).start()  # no zombie while this process lives on
        return f"local://{socket.gethostname()}/{process.pid}"

    @override
    def observe(self, jobs: Sequence[Job]) -> dict[Job, Observation]:
        ahead = jobs_ahead()
        return {job: _observe(job, ahead) for job in jobs}

    @override
    def cancel(self, jobs: Sequence[Job], store_url: str) -> None:
        processes = [(job, *_parse(job.handle)) for job in jobs]
        elsewhere = [f"{job.run} runs on {host}" for job, host, _ in processes if host != socket.gethostname()]
        if elsewhere:
            raise SchedulerError(f"{'; '.join(elsewhere)}; cancel it there")
        found = [process for job, _, pid in processes if (process := _stoppable(job, pid, store_url))]
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.terminate()

    @override
    def tail_log(self, job: Job, store_url: str) -> str:
        return tail(self.process(JobSpec(job.run, store_url)).log)


def _packages(backend: str) -> Check:
    missing = missing_packages(backend)
    problem = (
        f"{sys.executable} has no {', '.join(missing)}, which training with {backend} needs; install it there "
        "(see docs/unsloth.md) "
        "or choose another backend with --set backend=peft or unsloth"
    )
    return Check(f"packages for {backend}", problem if missing else "")


def _trackers() -> Check:
    from cefr_batch.config.schema import TRACKERS  # late: only doctor needs it

    found = [name for name in TRACKERS if find_spec(name)]
    return Check("trackers for training.report_to", note=f"{', '.join(found) or 'none'} installed")


def _writable(name: str, path: Path) -> Check:
    """Whether the folder can be written, or be made."""
    existing = existing_parent(path.absolute())
    writable = os.path.isdir(existing) and os.access(existing, os.W_OK)
    problem = f"the {name} {path} cannot be written; give access there, or set CEFR_BATCH_WORK or CEFR_BATCH_CACHE"
    return Check(f"{name} {path}", "" if writable else problem)


def _lockable(queue: Path) -> Check:
    why = why_no_locks(existing_parent(queue.absolute()))
    problem = (
        f"the file system of the queue {queue} has no file locks ({why}), so jobs that start at the same moment might run "
        "at the same time; set CEFR_BATCH_CACHE to a folder on a local disk"
    )
    return Check("locks of the queue", problem if why else "", warning=True)


def _start(request: LocalRequest, slot: QueueSlot) -> subprocess.Popen[bytes]:
    """Start the process in a session of its own: closing this terminal, or Ctrl-C in it, does not reach it."""
    with request.log.open("wb") as output:
        return subprocess.Popen(
            request.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, QueueSlot.VARIABLE: str(slot.path)},
        )


def _observe(job: Job, ahead: dict[int, int]) -> Observation:
    try:
        host, pid = _parse(job.handle)
    except SchedulerError as exc:
        return Observation(State.UNKNOWN, str(exc))
    if host != socket.gethostname():
        return Observation(State.UNKNOWN, f"it was started on {host}, and only that machine knows whether it runs")
    if not _process(pid, job.run):
        return Observation(
            State.FAILED,
            "its process exited without reporting a status (killed, by somebody or by the system for lack of memory)",
        )
    if before := ahead.get(pid, 0):
        return Observation(State.PENDING, f"waiting for {before} job{'s' * (before > 1)} before it")
    return Observation(State.RUNNING)


def _parse(handle: str) -> tuple[str, int]:
    match = _HANDLE.fullmatch(handle)
    if not match:
        raise SchedulerError(
            f"{handle!r} is not the id of a local job (local://HOST/PID); was the run's submission.json edited? "
            "Restore it from a copy"
        )
    return match["host"], int(match["pid"])


def _process(pid: int, run: str) -> psutil.Process | None:
    """The process, if it still runs a run of this name; None if it has ended, even if its id belongs to another process
    now."""
    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE and run in _command(process):
            return process
    except psutil.Error:
        pass
    return None


def _stoppable(job: Job, pid: int, store_url: str) -> psutil.Process | None:
    """The job's process; None if it has ended. Raises ``SchedulerError`` if it is another user's."""
    process = _process(pid, job.run)
    try:
        if process and any(same_store(word, store_url) for word in _command(process)):
            os.kill(pid, 0)  # sends nothing, but asks whether this user may
            return process
    except (psutil.NoSuchProcess, ProcessLookupError):
        pass
    except (psutil.AccessDenied, PermissionError) as exc:
        raise SchedulerError(f"{job.run} (process {pid}) belongs to another user, who can cancel it") from exc
    return None


def _command(process: psutil.Process) -> list[str]:
    """The process's command, which is empty for a moment after it was started, and for good in the kernel's own."""
    looks = Retrying(
        retry=retry_if_result(lambda command: not command),
        wait=wait_fixed(0.01),
        stop=stop_after_delay(0.2),
        retry_error_callback=lambda _: [],
    )
    return list(looks(process.cmdline))
