"""Where runs are attacked: a store, small disks that can be filled, and what a command printed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from clusters.proxy import Proxy
from clusters.s3 import Server
from support.runs import ROOT

from cefr_batch.records.layout import WorkDir, default_work_root
from cefr_batch.store import Store

DISK_MEGABYTES = 48
COMMAND_SECONDS = 300.0


@dataclass(frozen=True)
class Disk:
    """A file system of its own, small enough to be filled; where mounting is not permitted, a folder (``real`` is False)."""

    name: str
    path: Path
    real: bool

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a byte is free within the block."""
        balloon = self.path / "balloon"
        try:
            with balloon.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(1 << 12))
            yield
        finally:
            balloon.unlink()


@contextmanager
def disk(name: str, path: Path) -> Iterator[Disk]:
    path.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "cefr-batch-chaos", str(path)]
    real = subprocess.run(["mount", *options], capture_output=True).returncode == 0
    try:
        yield Disk(name, path, real)
    finally:
        if real:
            subprocess.run(["umount", "--lazy", str(path)], check=True)


def other_clock(folder: Path) -> Path | None:
    """The library of ``clock.c``, made in this folder; None without a C compiler."""
    if not shutil.which("cc"):
        return None
    library, source = folder / "clock.so", Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O", "-o", str(library), str(source)], check=True)
    return library


@dataclass
class Arena:
    """``url``: the store as commands are given it; ``store``: the same one, past the proxy; ``clock``: see
    ``other_clock``."""

    name: str
    url: str
    store: Store
    disks: Mapping[str, Disk]
    clock: Path | None
    proxy: Proxy | None = None
    server: Server | None = None
    printed: list[str] = field(default_factory=list)

    def command(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command, which must end in time, and remember what it printed."""
        line = [sys.executable, "-m", "cefr_batch", *words, "--store", self.url]
        environment = {**os.environ, **(env or {})}
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=COMMAND_SECONDS)
        self.printed.append(f"$ {' '.join(words)}\n{done.stdout}{done.stderr}")
        return done

    def work(self, run: str) -> WorkDir:
        """The run's folder on this machine."""
        return WorkDir.of(default_work_root(), self.url, run)

    def job(self, run: str) -> psutil.Process | None:
        """The run's job, while it lives."""
        pid = int(self.store.get_json(f"runs/{run}/submission.json")["handle"].rpartition("/")[2])
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE and run in process.cmdline():
                return process
        return None

    def status(self, run: str) -> dict[str, object]:
        """What the job wrote last; empty before."""
        key = f"runs/{run}/status.json"
        return dict(self.store.get_json(key)) if self.store.exists(key) else {}

    def complete(self, run: str) -> bool:
        return self.store.exists(f"runs/{run}/manifest.json")


def child_of(job: psutil.Process) -> psutil.Process | None:
    """The process of a job's heavy stages, while there is one."""
    with suppress(psutil.NoSuchProcess):
        return next((one for one in job.children() if "cefr_batch.job.child" in one.cmdline()), None)
    return None
