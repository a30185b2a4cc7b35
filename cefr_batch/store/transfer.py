"""Many objects at once: read in parallel, hashed on the way, written aside and renamed, resumed after an interruption."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cefr_batch.errors import Damaged, StoreError, Unavailable
from cefr_batch.files import sha256_file, write_bytes
from cefr_batch.store.base import ObjectInfo, Store

log = logging.getLogger(__name__)

PART_BYTES = 8 << 20
# How far reading runs ahead of what is hashed and written: this bounds memory, and what a killed process fetches again.
_AHEAD_BYTES = 40 << 20
_LEAST_COST = 1 << 19  # of a small object, so that not too many are read ahead
_THREADS = 16
_ASIDE = ".aside-"
_DAMAGED = "its checksum (SHA-256) differs from the recorded one"

OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class TransferItem:
    """An object with its recorded size in bytes and SHA-256."""

    key: str
    size: int
    sha256: str


class _Part(NamedTuple):
    """The bytes of an object of ``size`` bytes from ``start`` to before ``stop``."""

    key: str
    size: int
    start: int
    stop: int


_Incoming = tuple[_Part, "Future[bytes]"]


def _ignore(_: int) -> None:
    pass


def fetch(store: Store, key: str, path: Path) -> None:
    """Write one small object to a path, without a check: whole or not at all."""
    data = store.get(key)
    with _writing(path):
        write_bytes(path, data)


def download(
    store: Store, items: Iterable[TransferItem], path_of: Callable[[TransferItem], Path], on_bytes: OnBytes = _ignore
) -> None:
    """Write each object to its path. Idempotent: what is there with the right hash is kept, an interrupted file resumed.

    A path is never half-written, and of several processes that write the same path one does while the others wait for it.
    After a kill at most 40 MB are fetched again. ``on_bytes`` gets the sizes of what was
    read or found in place, and a negative one where an object is fetched again. Raises ``StoreError`` for an object that
    is missing or damaged, and for a file that cannot be written.
    """
    damaged = _fetch(store, list(dict.fromkeys(items)), path_of, on_bytes)
    if damaged:  # on the way, or on this disk since an earlier download was interrupted: fetch it again from its start
        on_bytes(-sum(item.size for item in damaged))
        damaged = _fetch(store, damaged, path_of, on_bytes)
    if damaged:
        raise Damaged(
            "\n".join(
                f"{store.locate(item.key)} is damaged or was changed: {_DAMAGED}; restore it from a copy"
                for item in damaged[:20]
            )
        )


def verify(store: Store, items: Sequence[TransferItem], on_bytes: OnBytes = _ignore) -> dict[str, str]:
    """Read all objects and write none; return what is wrong, by key. Raises ``Unavailable`` if the store is."""
    found = _digests(store, items, on_bytes)
    recorded = {item.key: item.sha256 for item in items}
    return {
        key: str(digest) if isinstance(digest, StoreError) else _DAMAGED
        for key, digest in found
        if digest != recorded[key]
    }


def hashes(store: Store, objects: Iterable[ObjectInfo]) -> dict[str, str]:
    """Read all objects and write none; return the SHA-256 of each, by key. Raises ``StoreError`` if one is missing."""
    found = {}
    for key, digest in _digests(store, objects):
        if isinstance(digest, StoreError):
            raise digest
        found[key] = digest
    return found


def upload(store: Store, files: Mapping[str, Path]) -> dict[str, str]:
    """Write objects from files, several at a time, in no order; return the SHA-256 of each, by key."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(files, pool.map(store.put_file, files.keys(), files.values()), strict=True))


def _digests(
    store: Store, objects: Iterable[TransferItem | ObjectInfo], on_bytes: OnBytes = _ignore
) -> Iterator[tuple[str, str | StoreError]]:
    """Each object's key and its SHA-256 as it is stored, or why it cannot be read. ``Unavailable`` if the store is."""
    with closing(_read_ahead(store, (part for one in objects for part in _parts(one.key, one.size)))) as reading:
        for key, incoming in groupby(reading, key=lambda pair: pair[0].key):
            digest, error = hashlib.sha256(), None
            for part, data in incoming:
                try:
                    digest.update(data.result())
                except Unavailable:
                    raise
                except StoreError as exc:
                    error = exc
                on_bytes(part.stop - part.start)
            yield key, error or digest.hexdigest()


def _fetch(
    store: Store, items: Sequence[TransferItem], path_of: Callable[[TransferItem], Path], on_bytes: OnBytes
) -> list[TransferItem]:
    """Fetch what is not there; return the items that came with a wrong hash, of which nothing is kept."""
    by_key = {item.key: item for item in items}
    damaged = []
    with closing(_read_ahead(store, _missing(items, path_of, on_bytes))) as reading:
        for key, incoming in groupby(reading, key=lambda pair: pair[0].key):
            item = by_key[key]
            if not _write(item, path_of(item), incoming, on_bytes):
                damaged.append(item)
    return damaged


def _missing(
    items: Iterable[TransferItem], path_of: Callable[[TransferItem], Path], on_bytes: OnBytes
) -> Iterator[_Part]:
    """The parts that have to be read."""
    for item in items:
        path = path_of(item)
        if _is_there(item, path):
            on_bytes(item.size)
        else:
            if start := _resume_at(item, _aside(item, path)):
                on_bytes(start)
            yield from _parts(item.key, item.size, start)


def _is_there(item: TransferItem, path: Path) -> bool:
    if not path.is_file() or path.is_symlink() or path.stat().st_size != item.size:
        return False
    with _writing(path):
        return sha256_file(path) == item.sha256


def _parts(key: str, size: int, start: int = 0) -> Iterator[_Part]:
    """From ``start`` on; at least one, so that every object is looked at."""
    for at in range(start, max(size, start + 1), PART_BYTES):
        yield _Part(key, size, at, min(at + PART_BYTES, size))


def _read_ahead(store: Store, parts: Iterable[_Part]) -> Generator[_Incoming, None, None]:
    """The parts in their order, each being read; reading runs ahead by as much as memory may hold."""
    waiting: deque[tuple[_Part, Future[bytes], int]] = deque()
    ahead = 0
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="read")
    try:
        for part in parts:
            cost = max(part.stop - part.start, _LEAST_COST)
            while waiting and ahead + cost > _AHEAD_BYTES:
                first, data, paid = waiting.popleft()
                ahead -= paid
                yield first, data
            waiting.append((part, pool.submit(_read, store, part), cost))
            ahead += cost
        for first, data, _ in waiting:
            yield first, data
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _read(store: Store, part: _Part) -> bytes:
    if part.start and part.start == part.stop:  # all of it is here already
        return b""
    data = store.get(part.key, start=part.start, stop=part.stop or None)
    if len(data) != part.stop - part.start:
        raise Damaged(
            f"{store.locate(part.key)} is damaged or was changed: it does not have the recorded size of {part.size} bytes; "
            "restore it from a copy"
        )
    return data


def _aside(item: TransferItem, path: Path) -> Path:
    """Bound to the content: an interrupted download of another version is not resumed."""
    return path.with_name(f"{_ASIDE}{item.sha256[:16]}-{path.name}")


def _resume_at(item: TransferItem, aside: Path) -> int:
    """How many bytes an interrupted download left; none if it is more than the object has."""
    size = aside.stat().st_size if aside.is_file() else 0
    return size if size <= item.size else 0


def _write(item: TransferItem, path: Path, parts: Iterable[_Incoming], on_bytes: OnBytes) -> bool:
    """Append the parts aside, then rename the file to ``path`` if its hash is right; else remove it. Where another process
    wrote it while this one waited, the parts are dropped."""
    aside = _aside(item, path)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(aside) as file:
            if _is_there(item, path):
                for part, _ in parts:
                    on_bytes(part.stop - part.start)
                aside.unlink()
                return True
            digest = _append(file, parts, on_bytes)
            if digest.hexdigest() != item.sha256:
                aside.unlink()
                return False
            aside.replace(path)
    return True


def _append(file: BinaryIO, parts: Iterable[_Incoming], on_bytes: OnBytes) -> hashlib._Hash:
    """Write the parts where the first of them begins, and return the hash of the whole file."""
    digest = hashlib.sha256()
    for number, (part, incoming) in enumerate(parts):
        if not number:
            if os.fstat(file.fileno()).st_size > part.start:  # by one that was killed meanwhile
                file.truncate(part.start)
            digest = _digest_of_first(part.start, file)
        data = incoming.result()
        digest.update(data)
        file.write(data)
        file.flush()  # a kill now loses nothing of it
        on_bytes(len(data))
    return digest


@contextmanager
def _alone(aside: Path) -> Iterator[BinaryIO]:
    """The file, open for this process alone: others wait, and then find what it was renamed to."""
    while True:
        with aside.open("a+b") as file:
            _lock(file, aside)
            if _is_still(aside, file):
                file.seek(0)
                yield file
                return


def _is_still(aside: Path, file: BinaryIO) -> bool:
    """Whether the path still names the file that is open: who held it may have renamed or removed it."""
    try:
        return os.path.samestat(aside.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO, aside: Path) -> None:
    """Blocks while another process holds it; its end releases it. Nothing on file systems without locks."""
    with suppress(OSError):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning(
                "another cefr-batch process is fetching %s; waiting for it", aside.name.removeprefix(_ASIDE)[17:]
            )
            fcntl.flock(file, fcntl.LOCK_EX)


def _digest_of_first(count: int, file: BinaryIO) -> hashlib._Hash:
    digest = hashlib.sha256()
    while count and (chunk := file.read(min(count, PART_BYTES))):
        digest.update(chunk)
        count -= len(chunk)
    return digest


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        hint = (
            "; free some space, then repeat this: it resumes where it stopped" if exc.errno in (ENOSPC, EDQUOT) else ""
        )
        raise StoreError(f"cannot write {path}: {exc.strerror or exc}{hint}") from exc
