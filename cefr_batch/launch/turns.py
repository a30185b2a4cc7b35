"""The queue of a machine's local jobs: one runs, the others wait, in the order in which they were submitted.

Each job holds a lock on a ticket file of its own and waits until every lower ticket is free. The kernel frees a dead
process's lock, so nothing has to be cleaned up for the queue to go on.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cefr_batch import layout

_INHERITED = "CEFR_BATCH_TICKET"  # <descriptor>:<path>, from the submitting process to the job


@dataclass(frozen=True)
class Ticket:
    """A place in the queue, kept for as long as any process has ``descriptor`` open."""

    path: Path
    descriptor: int

    @classmethod
    def take(cls) -> Ticket:
        """The next place. Does not wait. Raises ``OSError`` where the queue's folder cannot be written."""
        folder = layout.local_queue()
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(folder / "lock"):
            numbers = [_number(path) for path in _tickets(folder) if not _removed(path)]
            path = folder / f"{max(numbers, default=0) + 1}.ticket"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        return cls(path, descriptor)

    @classmethod
    def mine(cls) -> Ticket:
        """The ticket that the submitting process took for this one, or a new one if there is none."""
        text = os.environ.pop(_INHERITED, None)
        if text is None:
            ticket = cls.take()
            ticket.belongs_to(os.getpid())
            return ticket
        descriptor, _, path = text.partition(":")
        os.set_inheritable(int(descriptor), False)
        return cls(Path(path), int(descriptor))

    def environment(self) -> dict[str, str]:
        """How a child that has ``descriptor`` open learns of its ticket."""
        return {_INHERITED: f"{self.descriptor}:{self.path}"}

    def belongs_to(self, pid: int) -> None:
        """Note whose ticket it is, for ``places``."""
        os.pwrite(self.descriptor, str(pid).encode(), 0)

    def release(self) -> None:
        """Close this process's end; the place is free once no other process has it open."""
        os.close(self.descriptor)

    def wait(self) -> None:
        """Block until every lower ticket is free. A signal ends it as it would end any sleep."""
        number = _number(self.path)
        for path in _tickets(self.path.parent):
            if _number(path) < number:
                _wait_until_free(path)


def places() -> dict[int, int]:
    """How many jobs stand before each waiting or running job of this machine, by process id."""
    held = [path for path in _tickets(layout.local_queue()) if _is_held(path)]
    return {owner: before for before, path in enumerate(held) if (owner := _owner(path))}


def _tickets(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.ticket"), key=_number)


def _number(path: Path) -> int:
    return int(path.stem)


def _owner(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):  # removed since we looked, or just being taken
        return None


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _wait_until_free(path: Path) -> None:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
    except FileNotFoundError:  # free, and removed since we looked
        pass


def _is_held(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def _removed(path: Path) -> bool:
    """Whether the ticket's holder is gone; then the file goes too. Only under the folder's lock."""
    if _is_held(path):
        return False
    path.unlink(missing_ok=True)
    return True
