"""``file://`` stores: a folder. Atomic by write-aside-and-rename; conditional writes by hard link."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from cefr_batch.errors import AlreadyExists, NotFound, StoreError
from cefr_batch.files import existing_parent
from cefr_batch.store.base import ObjectInfo, Store, check_key

_ASIDE = ".aside-"  # prefix of files being written; never listed


class LocalStore(Store):
    """A folder as a store. ``root`` is created on the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = self.root.as_uri()

    def check(self) -> None:
        existing = existing_parent(self.root)
        if not os.path.isdir(existing) or not os.access(existing, os.W_OK | os.X_OK):
            raise StoreError(f"the store {self.root} cannot be written; give another with --store")

    def _path(self, key: str) -> Path:
        return self.root.joinpath(*check_key(key).split("/"))

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        with self._aside(key) as aside:
            aside.write_bytes(data)
            self._publish(aside, key, if_absent)

    def put_file(self, key: str, path: Path) -> str:
        try:
            source = path.open("rb")
        except OSError as exc:
            raise StoreError(f"cannot read {path}: {exc.strerror or exc}") from exc
        with source, self._aside(key) as aside:
            sha256 = _copy_hashed(source, aside)
            self._publish(aside, key, if_absent=False)
        return sha256

    def _publish(self, aside: Path, key: str, if_absent: bool) -> None:
        target = self._path(key)
        if not if_absent:
            os.replace(aside, target)
            return
        try:
            os.link(aside, target)
        except FileExistsError as exc:
            raise AlreadyExists(f"{self.url}/{key} exists already") from exc

    @contextmanager
    def _aside(self, key: str) -> Iterator[Path]:
        """A fresh file beside the object; foreign OS errors become one sentence."""
        folder = self._path(key).parent
        aside = folder / f"{_ASIDE}{uuid4().hex}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            aside.touch(exist_ok=False)
            yield aside
        except OSError as exc:
            raise StoreError(f"cannot write {self.url}/{key}: {exc.strerror or exc}") from exc
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)

    def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        with self._reading(key), self._path(key).open("rb") as file:
            file.seek(start)
            return file.read() if stop is None else file.read(max(0, stop - start))

    def get_file(self, key: str, path: Path) -> None:
        aside = path.with_name(_ASIDE + path.name)
        with self._reading(key):
            source = self._path(key)
            if not source.is_file():
                raise FileNotFoundError(source)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(source, aside)
                os.replace(aside, path)
            finally:
                aside.unlink(missing_ok=True)

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as exc:
            raise NotFound(f"{self.url}/{key} does not exist") from exc
        except OSError as exc:
            raise StoreError(f"cannot read {self.url}/{key}: {exc.strerror or exc}") from exc

    def exists(self, key: str) -> bool:
        return os.path.isfile(self._path(key))

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = self._path(prefix.rsplit("/", 1)[0]) if "/" in prefix else self.root
        found = (ObjectInfo(*entry) for entry in self._walk(folder))
        return iter(sorted((o for o in found if o.key.startswith(prefix)), key=lambda o: o.key))

    def _walk(self, folder: Path) -> Iterator[tuple[str, int, float]]:
        for path, _, names in os.walk(folder):
            for name in names:
                file = Path(path, name)
                if name.startswith(_ASIDE) or file.is_symlink():
                    continue
                try:
                    stat = file.stat()
                except FileNotFoundError:  # removed while we walk
                    continue
                yield file.relative_to(self.root).as_posix(), stat.st_size, stat.st_mtime

    def folders(self, prefix: str) -> list[str]:
        folder = self._path(prefix.rstrip("/"))
        try:
            return sorted(e.name for e in os.scandir(folder) if e.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise StoreError(f"cannot read {self.url}/{prefix}: {exc.strerror or exc}") from exc

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
            for parent in path.parents:
                if parent == self.root:
                    break
                parent.rmdir()
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):  # it still has objects, or is gone
                raise StoreError(f"cannot delete {self.url}/{key}: {exc.strerror or exc}") from exc

    def discard_unfinished(self, prefix: str) -> int:
        left = list(self._path(prefix.rstrip("/")).rglob(f"{_ASIDE}*"))
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)


def _copy_hashed(source: BinaryIO, target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as writer:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()
