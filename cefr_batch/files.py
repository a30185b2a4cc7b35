"""Small files of a work folder: written aside and renamed, never half there."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

TAIL_BYTES = 2000  # of a log, to show how it ends

_FULL = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, which stays. Blocks until it is free; the system releases it when the process ends.

    Where the file system has no locks a warning is logged, and nothing is held. Raises ``OSError`` if the file cannot be
    made.
    """
    from filelock import FileLock

    path.touch()  # a folder that cannot be written is another error than one without locks
    lock = FileLock(path)
    try:
        lock.acquire()
    except (OSError, NotImplementedError) as exc:
        log.warning(
            "the file system of %s has no locks (%s), so two cefr-batch jobs or commands could write there at once; run "
            "one at a time on this machine, or set CEFR_BATCH_CACHE to a folder on a local disk",
            path,
            exc,
        )
    try:
        yield
    finally:
        lock.release()


@contextmanager
def aside(path: Path) -> Iterator[TextIOWrapper]:
    """A text file that replaces ``path`` atomically when the block ends well; its folder is made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")  # of this writer alone
    try:
        with beside.open("w", encoding="utf-8") as file:
            yield file
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def json_bytes(value: Any) -> bytes:
    """The one form in which cefr-batch writes JSON: indented, UTF-8, newline at the end. NaN raises ``ValueError``."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` atomically; its folder is made if needed."""
    with aside(path) as file:
        file.buffer.write(data)


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` atomically; its folder is made if needed."""
    write_bytes(path, json_bytes(value))


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises ``OSError`` or ``ValueError``."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as exc:
        raise ValueError("is nested too deeply") from exc


def out_of_space(exc: BaseException) -> bool:
    """Whether an error, or one that it came from, says that a disk is full or over its quota. Libraries that write
    themselves, such as safetensors, say so in their text alone."""
    cause: BaseException | None = exc
    while cause is not None:
        if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(one in str(cause) for one in _FULL):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def sha256_file(path: Path) -> str:
    """The hex SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def existing_parent(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there, as far as one may look."""
    return next(one for one in (path, *path.parents) if os.path.exists(one))


def tail(path: Path, size: int = TAIL_BYTES) -> str:
    """The last ``size`` bytes of a text file; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""
