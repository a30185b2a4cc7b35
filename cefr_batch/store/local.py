"""``file://`` stores: a folder.

Writes are atomic: to a file aside, which is then renamed. A conditional write gives that file its name by a hard link, which
is atomic too. Where the file system has no hard links (gcsfuse, rclone mount, SMB, exFAT) a conditional write creates the
object exclusively and writes it in place: still only one of several writers wins, but a reader that comes in the same
moment may see part of it, and a machine that dies in that moment may leave part of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from typing_extensions import override

from cefr_batch.errors import AlreadyExists, NotFound, StoreError, StoreFull, Unavailable
from cefr_batch.files import existing_parent
from cefr_batch.store.base import ObjectInfo, Store, path_below

_ASIDE = ".aside-"  # prefix of files being written; never listed
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_FULL = {errno.ENOSPC, errno.EDQUOT}
# What a file system says whose server is away for a while.
_AWAY = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENODEV}
_NOT_EMPTY_OR_GONE = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}


class LocalStore(Store):
    """A folder as a store. ``root`` is created by the first write. Symbolic links that leave it are refused."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = self.root.as_uri()

    @override
    def check(self) -> None:
        existing = existing_parent(self.root)
        if not os.path.isdir(existing) or not os.access(existing, os.W_OK | os.X_OK):
            raise StoreError(f"the store {self.root} cannot be written; give another with --store")

    def _path(self, key: str) -> Path:
        return path_below(self.root, key)

    @override
    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        with self._aside(key) as aside:
            aside.write_bytes(data)
            if if_absent:
                self._claim(key, aside, data)
            else:
                aside.replace(self._path(key))

    def _claim(self, key: str, aside: Path, data: bytes) -> None:
        path = self._path(key)
        try:
            try:
                os.link(aside, path)
            except OSError as exc:
                if exc.errno not in _NO_HARD_LINKS:
                    raise
                _create(path, data)
        except FileExistsError as exc:
            raise AlreadyExists(f"{self.url}/{key} exists already") from exc

    @override
    def put_file(self, key: str, path: Path) -> str:
        try:
            source = path.open("rb")
        except OSError as exc:
            raise StoreError(f"cannot read {path}: {exc.strerror or exc}") from exc
        with source, self._aside(key) as aside:
            sha256 = _copy_hashed(source, aside)
            aside.replace(self._path(key))
        return sha256

    @contextmanager
    def _aside(self, key: str) -> Iterator[Path]:
        """An empty file beside the object, removed at the end. Errors of the file system become ``StoreError``."""
        aside = self._path(key).with_name(f"{_ASIDE}{uuid4().hex}")
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            aside.touch(exist_ok=False)
            yield aside
        except OSError as exc:
            raise _failure(f"cannot write {self.url}/{key}", exc) from exc
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)

    @override
    def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        try:
            with open(self._path(key), "rb", opener=_no_waiting) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    wrong = "is a device or a pipe, and a stored file should be there"
                    raise StoreError(f"{self.url}/{key} {wrong}; it holds no data, so delete it and try again")
                file.seek(start)
                return file.read() if stop is None else file.read(max(0, stop - start))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as exc:
            raise NotFound(f"{self.url}/{key} does not exist") from exc
        except OSError as exc:
            raise _failure(f"cannot read {self.url}/{key}", exc) from exc

    @override
    def exists(self, key: str) -> bool:
        try:
            return stat.S_ISREG(self._path(key).stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as exc:
            raise _failure(f"cannot read {self.url}/{key}", exc) from exc

    @override
    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = self._path(prefix.rsplit("/", 1)[0]) if "/" in prefix else self.root
        found = (o for o in self._walk(folder) if o.key.startswith(prefix))
        return iter(sorted(found, key=lambda o: o.key))

    def _walk(self, folder: Path) -> Iterator[ObjectInfo]:
        for path, _, names in os.walk(folder, onerror=self._require_reachable):
            for name in names:
                file = Path(path, name)
                if name.startswith(_ASIDE):
                    continue
                try:
                    found = file.lstat()  # a symbolic link is no object
                except OSError as exc:  # removed meanwhile
                    self._require_reachable(exc)
                    continue
                if stat.S_ISREG(found.st_mode):
                    yield ObjectInfo(file.relative_to(self.root).as_posix(), found.st_size, found.st_mtime)

    def _require_reachable(self, exc: OSError) -> None:
        """What cannot be listed is left out; but a folder whose file server is away is not empty."""
        if exc.errno in _AWAY:
            raise _failure(f"cannot list {self.url}", exc) from exc

    @override
    def folders(self, prefix: str) -> list[str]:
        folder = self._path(prefix.rstrip("/"))
        try:
            return sorted(e.name for e in os.scandir(folder) if e.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise _failure(f"cannot read {self.url}/{prefix}", exc) from exc

    @override
    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
            for parent in path.parents:
                if parent == self.root:
                    break
                parent.rmdir()
        except OSError as exc:
            if exc.errno not in _NOT_EMPTY_OR_GONE:
                raise _failure(f"cannot delete {self.url}/{key}", exc) from exc

    @override
    def discard_unfinished(self, prefix: str) -> int:
        try:
            folder = self._path(prefix.rstrip("/")) if prefix else self.root
            left = list(folder.rglob(f"{_ASIDE}*"))
            for path in left:
                path.unlink(missing_ok=True)
        except OSError as exc:
            raise _failure(f"cannot remove unfinished files below {self.url}/{prefix}", exc) from exc
        return len(left)


def _failure(what: str, exc: OSError) -> StoreError:
    """The error of ours for one of the file system: ``StoreFull`` and ``Unavailable`` where it may pass."""
    if exc.errno in _FULL:
        return StoreFull(f"{what}: {exc.strerror}; free some space there")
    kind = Unavailable if exc.errno in _AWAY else StoreError
    return kind(f"{what}: {exc.strerror or exc}")


def _no_waiting(path: str, flags: int) -> int:
    """Open a pipe without waiting for somebody who writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _create(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet: all of it, or nothing is left. Raises ``FileExistsError``."""
    with path.open("xb") as file:
        try:
            file.write(data)
            file.flush()
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _copy_hashed(source: BinaryIO, target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as writer:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()
