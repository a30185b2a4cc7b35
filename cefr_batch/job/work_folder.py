"""The folder in which a job works: one attempt at a time on this machine."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cefr_batch.errors import MachineError, Problem, StoreError
from cefr_batch.files import locked
from cefr_batch.records import layout
from cefr_batch.records.document import read_file, write_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.spec import SpecRecord


@contextmanager
def work_folder(work: WorkDir, run: str, record: SpecRecord) -> Iterator[None]:
    """Hold the run's folder, made and cleaned for this run. Raises ``MachineError`` where it cannot be written.

    Blocks until an older attempt on this machine has noticed that it is superseded, and has left the folder. The lock has
    the machine's name: in a shared folder, a lock that was held by a machine that died might never be released.
    """
    parent = work.root.parent
    with ExitStack() as stack:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(parent / f"{run}.{platform.node()}.lock"))
            _prepare(work, record)
        except OSError as exc:
            what = f"cannot be written ({exc.strerror or exc}); name another with --work or CEFR_BATCH_WORK"
            raise MachineError([Problem(f"work folder {parent}", what)]) from exc
        yield


def _prepare(work: WorkDir, record: SpecRecord) -> None:
    """Make the folder; what another run of this name left there (deleted from the store since) is not this one's.

    ``launch.log`` stays: this very process may be writing it.
    """
    local = work.path(layout.SPEC)
    if work.root.is_dir() and not _is_of(work, record):
        for left in set(work.root.iterdir()) - {work.launch_log}:
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
    for folder in (work.root, work.tmp, work.path(layout.LOGS)):
        folder.mkdir(parents=True, exist_ok=True)
    write_file(local, record)
    for stale in (work.progress, work.error):
        stale.unlink(missing_ok=True)


def _is_of(work: WorkDir, record: SpecRecord) -> bool:
    try:
        return read_file(SpecRecord, work.path(layout.SPEC)) == record
    except (FileNotFoundError, StoreError):
        return False
