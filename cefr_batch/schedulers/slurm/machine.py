"""Where Slurm's commands and a site's folders are: this machine, or one that ``ssh`` reaches (``OverSsh``)."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from typing_extensions import override

from cefr_batch.errors import SchedulerError
from cefr_batch.files import existing_parent, tail


class AnswerLost(SchedulerError):
    """The connection to a machine ended before its answer came: whether what was asked for was done is not known."""


class SlurmMachine(Protocol):
    """Runs commands, and writes and reads small files. All paths are absolute, and that machine's.

    Every method blocks, but not for ever. Where that machine cannot be reached they raise ``SchedulerError`` with a
    ``ConnectionError`` as its cause, or ``AnswerLost``.
    """

    @property
    def where(self) -> str:
        """For messages: ``on this machine``, or ``on HOST``."""

    @property
    def no_slurm(self) -> str:
        """For messages, after "there is no sbatch": where, and what to do."""

    @property
    def node(self) -> str:
        """The machine's own name, without its domain."""

    @property
    def uid(self) -> int:
        """The number of the user that commands run as."""

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment variables of this process that commands there get unless others are given."""

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        login: bool = False,
        timeout: float,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command for at most ``timeout`` seconds. ``env``: its variables; on another machine, those that it has
        besides its login's own. ``login``: there, run it in a login shell, whose environment a job is to have.

        Raises ``FileNotFoundError`` if there is no such command, another ``OSError`` if it cannot be run, and
        ``subprocess.TimeoutExpired``.
        """

    def lacks(self, programs: Iterable[str]) -> list[str]:
        """Those of these programs that are not there."""

    def folder(self, path: Path) -> tuple[bool, str]:
        """Whether a folder can be written, or made and written, and the type of its file system, as /proc/mounts names
        it."""

    def nearest_with(self, names: Sequence[str], folder: Path) -> Path | None:
        """The nearest of a folder and those above it in which all these names are."""

    def write(self, folder: Path, files: Mapping[str, bytes], *, private: bool = False) -> None:
        """Write or replace files by name, each atomically; the folder is made. ``private``: readable by this user alone,
        which all files on another machine are. Raises ``OSError``."""

    def rename(self, folder: Path, names: Mapping[str, str]) -> None:
        """Rename files of a folder. After an ``AnswerLost`` it may be called again. Raises ``OSError``."""

    def remove(self, files: Iterable[Path]) -> None:
        """Remove files, as far as they are there, and folders that are empty then. Never raises."""

    def find(self, folder: Path, pattern: str, *, minutes: int = 0) -> list[Path]:
        """The files below a folder whose paths match a pattern with ``*``, the newest first; only those that are older than
        so many minutes. Raises ``OSError``."""

    def tail(self, path: Path) -> str:
        """The last 2000 bytes of a text file; empty if it cannot be read."""


class ThisMachine(SlurmMachine):
    """The machine that this process runs on."""

    where = "on this machine"
    no_slurm = (
        "here; run this on a machine of the cluster where Slurm's commands are (a login node), or set `host` in the site "
        "file"
    )

    @property
    @override
    def node(self) -> str:
        return socket.gethostname().split(".")[0]

    @property
    @override
    def uid(self) -> int:
        return os.getuid()

    @property
    @override
    def variables(self) -> Mapping[str, str]:
        return os.environ

    @override
    def run(
        self,
        command: Sequence[str],
        *,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        login: bool = False,
        timeout: float,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout, env=env
        )

    @override
    def lacks(self, programs: Iterable[str]) -> list[str]:
        return [name for name in programs if shutil.which(name) is None]

    @override
    def folder(self, path: Path) -> tuple[bool, str]:
        existing = existing_parent(path)
        return existing.is_dir() and os.access(existing, os.W_OK), file_system(existing)

    @override
    def nearest_with(self, names: Sequence[str], folder: Path) -> Path | None:
        return next(
            (one for one in (folder, *folder.parents) if all(os.path.exists(one / name) for name in names)), None
        )

    @override
    def write(self, folder: Path, files: Mapping[str, bytes], *, private: bool = False) -> None:
        folder.mkdir(mode=0o700 if private else 0o777, parents=True, exist_ok=True)
        for name, data in files.items():
            aside = folder / f".{name}.{os.getpid()}"
            aside.unlink(missing_ok=True)
            try:
                descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                aside.replace(folder / name)
            finally:
                aside.unlink(missing_ok=True)

    @override
    def rename(self, folder: Path, names: Mapping[str, str]) -> None:
        for old, new in names.items():
            (folder / old).rename(folder / new)

    @override
    def remove(self, files: Iterable[Path]) -> None:
        for path in files:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            with suppress(OSError):
                path.parent.rmdir()

    @override
    def find(self, folder: Path, pattern: str, *, minutes: int = 0) -> list[Path]:
        newest = time.time() - 60 * minutes if minutes else float("inf")
        times = {path: path.stat().st_mtime for path in folder.glob(pattern)}
        return sorted((path for path, one in times.items() if one < newest), key=lambda path: -times[path])

    @override
    def tail(self, path: Path) -> str:
        return tail(path)


def file_system(path: Path) -> str:
    """The type of the file system that holds ``path`` on this machine, as /proc/mounts names it."""
    best, kind = -1, "unknown"
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return kind
    for line in lines:
        _, mount, found, *_ = line.split(" ")
        mount = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), mount)
        if path.resolve().is_relative_to(mount) and len(mount) >= best:
            best, kind = len(mount), found
    return kind
