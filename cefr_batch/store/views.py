"""Stores that are read through: one remembers what was read, one checks it against what is named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from typing_extensions import override

from cefr_batch.errors import Damaged, NotFound, StoreError
from cefr_batch.store.base import ObjectInfo, Store
from cefr_batch.store.transfer import TransferItem


class ReadOnlyStore(Store):
    """Another store, of which nothing can be changed this way: writing raises ``StoreError``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.url = store.url

    @override
    def locate(self, key: str) -> str:
        return self._store.locate(key)

    @override
    def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        return self._store.get(key, start=start, stop=stop)

    @override
    def exists(self, key: str) -> bool:
        return self._store.exists(key)

    @override
    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._store.objects(prefix)

    @override
    def folders(self, prefix: str) -> list[str]:
        return self._store.folders(prefix)

    @override
    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        raise self._refused(key)

    @override
    def put_file(self, key: str, path: Path) -> str:
        raise self._refused(key)

    @override
    def delete(self, key: str) -> None:
        raise self._refused(key)

    @override
    def discard_unfinished(self, prefix: str) -> int:
        raise self._refused(prefix)

    def _refused(self, key: str) -> StoreError:
        return StoreError(f"{self.locate(key)} is opened for reading and not changed")


class RecordingStore(ReadOnlyStore):
    """Remembers each object that was read whole: what follows from these reads follows from ``read``."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._read: dict[str, TransferItem] = {}

    @property
    def read(self) -> list[TransferItem]:
        """The objects, each as it was when first read, sorted by key."""
        return [self._read[key] for key in sorted(self._read)]

    @override
    def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        data = super().get(key, start=start, stop=stop)
        if start == 0 and stop is None:
            self._read.setdefault(key, TransferItem(key, len(data), hashlib.sha256(data).hexdigest()))
        return data


class CheckedStore(ReadOnlyStore):
    """Reading an object that is not as it is named raises ``Damaged``; ``named_by`` says in messages who named it.

    For documents: an object is read whole, also for a part of it. Others than those named are read as they are.
    """

    def __init__(self, store: Store, items: Iterable[TransferItem], named_by: str) -> None:
        super().__init__(store)
        self._items = {item.key: item for item in items}
        self._named_by = named_by

    @override
    def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        named = self._items.get(key)
        if named is None:
            return self._unnamed(key, start, stop)
        data = super().get(key)
        if len(data) != named.size:
            raise self._differs(key, f"it has {len(data)} bytes instead of {named.size}")
        if hashlib.sha256(data).hexdigest() != named.sha256:
            raise self._differs(key, "its checksum (SHA-256) is another")
        return data[start:stop]

    def _unnamed(self, key: str, start: int, stop: int | None) -> bytes:
        return super().get(key, start=start, stop=stop)

    def _differs(self, key: str, how: str) -> Damaged:
        return Damaged(f"{self.locate(key)} is not the object that {self._named_by} names: {how}")


class PinnedStore(CheckedStore):
    """As ``CheckedStore``, but there is nothing else: what was added since is not seen."""

    @override
    def exists(self, key: str) -> bool:
        return key in self._items and super().exists(key)

    @override
    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        return (stored for stored in super().objects(prefix) if stored.key in self._items)

    @override
    def folders(self, prefix: str) -> list[str]:
        below = (key.removeprefix(prefix) for key in self._items if key.startswith(prefix))
        return sorted({name.partition("/")[0] for name in below if "/" in name})

    @override
    def _unnamed(self, key: str, start: int, stop: int | None) -> bytes:
        raise NotFound(
            f"{self.locate(key)} is not among the objects that {self._named_by} names, so it cannot be checked"
        )
