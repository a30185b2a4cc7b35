"""Jobs as detached processes on this machine, one at a time."""

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

from cefr_batch import layout
from cefr_batch.errors import LaunchError
from cefr_batch.files import existing_parent, tail
from cefr_batch.launch import turns
from cefr_batch.launch.base import Batch, Check, Job, JobOrder, Launcher, Observation, State, training_packages

_HANDLE = re.compile(r"local://(?P<host>[^/]+)/(?P<pid>[0-9]+)")


@dataclass(frozen=True)
class LocalRequest:
    """A process to start: its command and its folder. It has the submitter's environment."""

    command: tuple[str, ...]
    work: Path
    log: Path


class LocalLauncher(Launcher[tuple[LocalRequest, ...]]):
    scheme = "local"

    def render(self, batch: Batch) -> tuple[LocalRequest, ...]:
        return tuple(self.process(order) for order in batch.orders)

    def process(self, order: JobOrder) -> LocalRequest:
        """What is started for one run."""
        work_root = Path(os.path.abspath(layout.default_work_root()))  # noqa: PTH100 (keeps symlinks)
        work = layout.WorkDir.of(work_root, order.store_url, order.run)
        command = (sys.executable, "-m", "cefr_batch", *order.command(str(work_root)), "--wait-turn")
        return LocalRequest(command, work.root, work.launch_log)

    def describe(self, request: tuple[LocalRequest, ...]) -> str:
        lines = []
        for one in request:
            lines += [f"command: {shlex.join(one.command)}", f"folder:  {one.work}", f"output:  {one.log}"]
        return "\n".join([*lines, "queue:   after the jobs submitted before on this machine, one at a time"])

    def backends(self) -> Sequence[str]:
        return [name for name in ("unsloth", "peft") if find_spec(name)]

    def check(self, backends: Iterable[str], store_url: str) -> list[Check]:
        checks = []
        for backend in backends:
            missing = [name for name in training_packages(backend) if find_spec(name) is None]
            problem = (
                f"{sys.executable} has no {', '.join(missing)}, which training with {backend} needs; install it there "
                "(see README) or choose another backend with --set backend=peft or unsloth"
            )
            checks.append(Check(f"packages for {backend}", problem if missing else ""))
        places = {"work folder (CEFR_BATCH_WORK)": layout.default_work_root(), "queue": layout.local_queue()}
        for name, path in places.items():
            checks.append(Check(f"{name} {path}", "" if _writable(path) else f"the {name} {path} cannot be written"))
        return checks

    def submit(self, request: tuple[LocalRequest, ...]) -> list[str]:
        handles: list[str] = []
        try:
            for one in request:
                handles.append(self.start(one))
        except LaunchError:
            for handle in handles:
                with suppress(ProcessLookupError):
                    os.kill(_parse(handle)[1], signal.SIGTERM)
            raise
        return handles

    def start(self, request: LocalRequest) -> str:
        """Start one process and return its handle."""
        try:
            request.work.mkdir(parents=True, exist_ok=True)
            ticket = turns.Ticket.take()
        except OSError as exc:
            raise LaunchError(f"cannot prepare a local job: {exc}") from exc
        try:
            process = _start(request, ticket)
            ticket.belongs_to(process.pid)
        except OSError as exc:
            raise LaunchError(f"cannot start {shlex.join(request.command)}: {exc.strerror or exc}") from exc
        finally:
            ticket.release()
        threading.Thread(target=process.wait, daemon=True).start()  # no zombie while this process lives on
        return f"local://{socket.gethostname()}/{process.pid}"

    def observe(self, jobs: Sequence[Job]) -> dict[Job, Observation]:
        places = turns.places()
        return {job: _observe(job, places) for job in jobs}

    def cancel(self, jobs: Sequence[Job]) -> None:
        places = [(job, *_parse(job.handle)) for job in jobs]
        elsewhere = [f"{job.run} runs on {host}" for job, host, _ in places if host != socket.gethostname()]
        if elsewhere:
            raise LaunchError(f"{'; '.join(elsewhere)}; cancel it there")
        for job, _, pid in places:
            try:
                if process := _process(pid, job.run):
                    process.terminate()
            except psutil.NoSuchProcess:
                pass
            except psutil.AccessDenied as exc:
                raise LaunchError(f"{job.run} (process {pid}) belongs to another user, who can cancel it") from exc

    def last_output(self, job: Job, store_url: str) -> str:
        return tail(self.process(JobOrder(job.run, store_url)).log)


def _start(request: LocalRequest, ticket: turns.Ticket) -> subprocess.Popen[bytes]:
    """In a session of its own, so that neither a hang-up nor a Ctrl-C of this terminal reaches it."""
    with request.log.open("wb") as log:
        return subprocess.Popen(
            request.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(ticket.descriptor,),
            env={**os.environ, **ticket.environment()},
        )


def _observe(job: Job, places: dict[int, int]) -> Observation:
    host, pid = _parse(job.handle)
    if host != socket.gethostname():
        return Observation(State.UNKNOWN, f"it was started on {host}, and only there one can see whether it runs")
    if not _process(pid, job.run):
        return Observation(State.FAILED, "its process is gone without a word (killed, or out of memory?)")
    before = places.get(pid, 0)
    if before:
        return Observation(State.PENDING, f"waiting for {before} job{'s' * (before > 1)} before it")
    return Observation(State.RUNNING)


def _parse(handle: str) -> tuple[str, int]:
    match = _HANDLE.fullmatch(handle)
    if not match:
        raise LaunchError(f"{handle!r} is not a handle of a local job")
    return match["host"], int(match["pid"])


def _process(pid: int, run: str) -> psutil.Process | None:
    """The living process of this run; None if it is gone and its number may belong to another."""
    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE and run in process.cmdline():
            return process
    except psutil.Error:
        pass
    return None


def _writable(path: Path) -> bool:
    """Whether ``path`` can be written, or be made."""
    existing = existing_parent(path.absolute())
    return os.path.isdir(existing) and os.access(existing, os.W_OK)
