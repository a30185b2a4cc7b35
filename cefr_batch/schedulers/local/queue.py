"""The queue of this machine's local jobs: one runs at a time, in the order in which they were submitted.

Each job has a slot, a small file named after the time of its submission, that says which process owns it. A slot counts for
as long as its owner lives, so nothing has to be cleaned up after a job that was killed. Slots give the order; a file lock
that the running job holds ensures that it runs alone.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from cefr_batch.files import read_json, write_json
from cefr_batch.records import layout

log = logging.getLogger(__name__)

_SUFFIX = ".slot"
_POLL_SECONDS = 0.2
_SAME_START_SECONDS = 2.0  # the kernel's start time of a process is in this system's clock, which may be adjusted


@dataclass(frozen=True)
class QueueSlot:
    """A position in the queue of this machine."""

    path: Path

    VARIABLE = "CEFR_BATCH_QUEUE_SLOT"  # the environment variable that tells a submitted job its slot

    @classmethod
    def take(cls) -> QueueSlot:
        """The next slot, owned by this process. Does not wait. Raises ``OSError`` where the queue cannot be written."""
        folder = layout.local_queue()
        now = time.time_ns()
        for path in folder.glob(f"*{_SUFFIX}"):
            if _owner(path):
                now = max(now, _time(path) + 1)  # the clock may have been set back
            else:
                path.unlink(missing_ok=True)
        slot = cls(folder / f"{now:020}-{os.getpid()}{_SUFFIX}")
        slot.assign(os.getpid())
        return slot

    @classmethod
    def of_this_job(cls) -> QueueSlot:
        """The slot that the submitting process took for this one, or a new one; owned by this process."""
        path = os.environ.pop(cls.VARIABLE, None)
        if path is None:
            return cls.take()
        slot = cls(Path(path))
        slot.assign(os.getpid())
        return slot

    def assign(self, pid: int) -> None:
        """Make a process the owner; one that has ended leaves the queue. Raises ``OSError``."""
        try:
            write_json(self.path, {"pid": pid, "started": psutil.Process(pid).create_time()})
        except psutil.NoSuchProcess:
            self.release()

    def release(self) -> None:
        """Leave the queue before the owner ends. Idempotent."""
        self.path.unlink(missing_ok=True)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Block until all jobs before this one have ended, then run the block, alone on this machine.

        The slot stays until this process has ended, and with it what it has of the GPU.
        """
        while any(path.name < self.path.name for path, _ in _live_slots()):
            time.sleep(_POLL_SECONDS)
        with _alone(self.path.parent / "running.lock"):
            yield


def jobs_ahead() -> dict[int, int]:
    """For each waiting or running job of this machine, by process id: how many jobs are before it. Needs no lock."""
    return {pid: ahead for ahead, (_, pid) in enumerate(_live_slots())}


def why_no_locks(folder: Path) -> str:
    """Why files in this folder cannot be locked; empty if they can. Leaves nothing behind."""
    from filelock import BaseFileLock, FileLock, SoftFileLock  # here: most commands need no lock

    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=folder, prefix=".cefr-batch-") as inside:
            warnings.simplefilter("ignore")
            lock: BaseFileLock = FileLock(Path(inside) / "lock")
            with lock:  # becomes a soft lock, which would outlive its process, where the kernel has no flock
                return "flock is not supported" if isinstance(lock, SoftFileLock) else ""
    except (OSError, NotImplementedError) as exc:
        return str(exc)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock, which the kernel frees if this process dies; or log a warning where the file system has no locks."""
    from filelock import FileLock

    if why := why_no_locks(path.parent):
        log.warning(
            "%s cannot be locked (%s), so jobs that start at the same moment might run at the same time; set "
            "CEFR_BATCH_CACHE to a folder on a local disk",
            path,
            why,
        )
        yield
    else:
        with FileLock(path).acquire(poll_interval=_POLL_SECONDS):
            yield


def _live_slots() -> list[tuple[Path, int]]:
    """The slots of living processes and their ids, in the order of submission."""
    slots = sorted(layout.local_queue().glob(f"*{_SUFFIX}"))
    return [(path, owner) for path in slots if (owner := _owner(path))]


def _time(path: Path) -> int:
    return int(path.name.partition("-")[0])


def _owner(path: Path) -> int | None:
    """The process id of a slot's owner; None if it has ended, even if its id belongs to another process now."""
    try:
        record = read_json(path)
        pid, started = int(record["pid"]), float(record["started"])
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < _SAME_START_SECONDS
        return pid if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, TypeError, KeyError, psutil.Error):  # released, or not one of ours
        return None
