"""Many objects at once: read in parallel, hashed on the way, written aside and renamed, resumed where it stopped."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path
from typing import BinaryIO

from cefr_batch.errors import Damaged, StoreError, Unavailable
from cefr_batch.files import sha256_file
from cefr_batch.store.base import Store

PART_BYTES = 8 << 20
# How far reading runs ahead of what is hashed and written: this bounds memory, and what a killed process fetches again.
_AHEAD_BYTES = 40 << 20
_THREADS = 16
_ASIDE = ".aside-"
_TRIES = 3  # of an object whose hash comes out wrong
_DAMAGED = "its SHA-256 is not the recorded one"


@dataclass(frozen=True)
class Item:
    """An object to read: its key, its size in bytes, and its SHA-256 if that is known."""

    key: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class Span:
    """The bytes of an item from ``start`` to before ``stop``."""

    item: Item
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def is_last(self) -> bool:
        return self.stop == self.item.size


def download(
    store: Store,
    items: Sequence[Item],
    path_of: Callable[[Item], Path],
    on_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """Write each object to its path. What is there already with the right hash is kept; a part that an interrupted
    download left is continued. ``on_bytes`` gets the sizes of what was read or found in place; negative: once more.

    Raises ``StoreError`` for an object that is missing or damaged, and where a file cannot be written.
    """
    for _ in range(_TRIES):
        items = _save(store, items, path_of, on_bytes)
        if not items:
            return
        on_bytes(-sum(item.size for item in items))
    raise Damaged("\n".join(f"{store.locate(item.key)} is damaged: {_DAMAGED}" for item in items[:20]))


def verify(store: Store, items: Sequence[Item], on_bytes: Callable[[int], None] = lambda _: None) -> dict[str, str]:
    """Read all objects and write none; return what is wrong, by key. Raises ``Unavailable`` if the store is."""
    wrong: dict[str, str] = {}
    for _ in range(_TRIES):
        wrong = _check(store, items, on_bytes)
        items = [item for item in items if item.key in wrong]
        if not items:
            break
        on_bytes(-sum(item.size for item in items))
    return wrong


def upload(store: Store, files: Mapping[str, Path]) -> dict[str, str]:
    """Write objects from files, several at a time, in no order; return the SHA-256 of each, by key."""
    with ThreadPoolExecutor(_THREADS) as pool:
        sent = {key: pool.submit(store.put_file, key, path) for key, path in files.items()}
        try:
            return {key: future.result() for key, future in sent.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def hashes(store: Store, items: Sequence[Item]) -> dict[str, str]:
    """Read all objects and write none; return the SHA-256 of each, by key. Raises ``StoreError`` if one is missing."""
    found = {}
    for item, digest in _digests(store, items):
        if isinstance(digest, StoreError):
            raise digest
        found[item.key] = digest
    return found


def _check(store: Store, items: Iterable[Item], on_bytes: Callable[[int], None]) -> dict[str, str]:
    wrong = {}
    for item, digest in _digests(store, items, on_bytes):
        if digest != item.sha256:
            wrong[item.key] = str(digest) if isinstance(digest, StoreError) else _DAMAGED
    return wrong


def _digests(
    store: Store, items: Iterable[Item], on_bytes: Callable[[int], None] = lambda _: None
) -> Iterator[tuple[Item, str | StoreError]]:
    """Each item and its SHA-256 as it is stored, or why it cannot be read. Raises ``Unavailable`` if the store is."""
    digest, error = hashlib.sha256(), None
    for span, part in _read_ahead(store, (span for item in items for span in _spans(item, 0))):
        try:
            digest.update(part.result())
        except Unavailable:
            raise
        except StoreError as exc:
            error = exc
        on_bytes(span.size)
        if span.is_last:
            yield span.item, error or digest.hexdigest()
            digest, error = hashlib.sha256(), None


def _save(
    store: Store, items: Iterable[Item], path_of: Callable[[Item], Path], on_bytes: Callable[[int], None]
) -> list[Item]:
    """Fetch what is not there; return the items that came with a wrong hash, of which nothing is kept."""
    damaged = []
    file: _Incoming | None = None
    try:
        for span, part in _read_ahead(store, _missing(items, path_of, on_bytes)):
            file = file or _Incoming.begin(span, path_of(span.item))
            file.write(part.result())
            on_bytes(span.size)
            if span.is_last:
                if not file.finish(span.item.sha256):
                    damaged.append(span.item)
                file = None
    finally:
        if file:
            file.close()
    return damaged


def _missing(items: Iterable[Item], path_of: Callable[[Item], Path], on_bytes: Callable[[int], None]) -> Iterator[Span]:
    """The spans that are to be read."""
    for item in items:
        path = path_of(item)
        if _is_there(item, path):
            on_bytes(item.size)
            continue
        aside = _aside(item, path)
        begun = aside.stat().st_size if item.sha256 and aside.is_file() else 0
        start = begun if begun <= item.size else 0
        if start:
            on_bytes(start)
        yield from _spans(item, start)


def _is_there(item: Item, path: Path) -> bool:
    if not item.sha256 or not path.is_file() or path.is_symlink() or path.stat().st_size != item.size:
        return False
    with _writing(path):
        return sha256_file(path) == item.sha256


def _spans(item: Item, start: int) -> Iterator[Span]:
    """From ``start`` on; at least one, so that every item has a last one."""
    for at in range(start, max(item.size, start + 1), PART_BYTES):
        yield Span(item, at, min(at + PART_BYTES, item.size))


def _read_ahead(store: Store, spans: Iterable[Span]) -> Iterator[tuple[Span, Future[bytes]]]:
    """The spans in their order, each being read; reading runs ahead by as much as memory may hold."""
    waiting: deque[tuple[Span, Future[bytes]]] = deque()
    ahead = 0
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="read")
    try:
        for span in spans:
            while waiting and (ahead + span.size > _AHEAD_BYTES or len(waiting) >= 4 * _THREADS):
                ahead -= waiting[0][0].size
                yield waiting.popleft()
            waiting.append((span, pool.submit(_read, store, span)))
            ahead += span.size
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _read(store: Store, span: Span) -> bytes:
    if span.start and not span.size:  # all of it is here already
        return b""
    data = store.get(span.item.key, start=span.start, stop=span.stop or None)
    if len(data) != span.size:
        raise Damaged(f"{store.locate(span.item.key)} does not have the recorded size of {span.item.size} bytes")
    return data


def _aside(item: Item, path: Path) -> Path:
    """Bound to the content: what was begun of another version is not continued."""
    return path.with_name(f"{_ASIDE}{(item.sha256 or 'unknown')[:16]}-{path.name}")


@dataclass
class _Incoming:
    """A file that is being written aside, in order, and hashed on the way."""

    path: Path
    aside: Path
    file: BinaryIO
    digest: hashlib._Hash

    @classmethod
    def begin(cls, span: Span, path: Path) -> _Incoming:
        aside = _aside(span.item, path)
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = aside.open("r+b" if span.start else "wb")
            digest = hashlib.sha256()
            left = span.start
            while left and (chunk := file.read(min(left, PART_BYTES))):
                digest.update(chunk)
                left -= len(chunk)
        return cls(path, aside, file, digest)

    def write(self, data: bytes) -> None:
        self.digest.update(data)
        with _writing(self.path):
            self.file.write(data)
            self.file.flush()

    def finish(self, sha256: str | None) -> bool:
        """Give the file its name, unless its hash is wrong: then remove it."""
        self.close()
        good = sha256 in (None, self.digest.hexdigest())
        with _writing(self.path):
            if good:
                os.replace(self.aside, self.path)
            else:
                self.aside.unlink()
        return good

    def close(self) -> None:
        self.file.close()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        hint = "; free some space, then repeat this: it goes on where it stopped" if exc.errno == ENOSPC else ""
        raise StoreError(f"cannot write {path}: {exc.strerror or exc}{hint}") from exc
