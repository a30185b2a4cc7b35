"""The interface of a store: objects under keys, as in S3. All state of cefr-batch lives behind it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from cefr_batch.errors import StoreError


@dataclass(frozen=True)
class ObjectInfo:
    """An object's key, its size in bytes, and when it was last written (seconds since the epoch)."""

    key: str
    size: int
    modified: float


class Store(ABC):
    """Objects under ``/``-separated keys. Safe to use from several threads.

    Writes are atomic: a reader sees the old object or the whole new one. Every method may block on the network and raises
    ``StoreError`` (``NotFound`` where the object is missing, ``Unavailable`` where trying later may help). Keys are
    validated: relative, no ``..``, no empty part.
    """

    url: str  # opens the same store on any machine; never holds a secret

    def locate(self, key: str) -> str:
        """Where an object is, for messages."""
        return f"{self.url}/{key}"

    @abstractmethod
    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Write an object. With ``if_absent`` exactly one of several writers wins; the others get ``AlreadyExists``."""

    @abstractmethod
    def put_file(self, key: str, path: Path) -> str:
        """Write an object from a file that does not change meanwhile; return the SHA-256 of what was written."""

    @abstractmethod
    def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        """An object's bytes from offset ``start`` to before ``stop`` or its end (empty past the end)."""

    @abstractmethod
    def get_file(self, key: str, path: Path) -> None:
        """Write an object to ``path``: aside first, then renamed, so that ``path`` is never half-written."""

    @abstractmethod
    def exists(self, key: str) -> bool: ...

    @abstractmethod
    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects whose key starts with ``prefix`` (end it with ``/`` for a folder), sorted by key."""

    @abstractmethod
    def folders(self, prefix: str) -> list[str]:
        """The names directly under ``prefix`` (ending with ``/``) that have objects below them, sorted."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; no error if it is not there."""

    @abstractmethod
    def discard_unfinished(self, prefix: str) -> int:
        """Remove what killed writers left of unfinished writes under ``prefix``; return how many there were.

        Only while nobody else writes there: a write that is under way is lost, and fails. Where listing or removing them is
        not allowed they stay, and a line says so.
        """

    def check(self) -> None:
        """Raise ``StoreError`` unless objects can be written and removed here. Leaves nothing behind."""
        key = f".check/{uuid4().hex}"
        self.put(key, b"", if_absent=True)
        self.delete(key)

    def put_json(self, key: str, value: Any, *, if_absent: bool = False) -> None:
        self.put(key, to_json(value), if_absent=if_absent)

    def get_json(self, key: str) -> Any:
        data = self.get(key)
        try:
            return json.loads(data)
        except ValueError as exc:
            raise StoreError(f"{self.locate(key)} is not valid JSON ({exc}); was it edited or cut off?") from exc


def to_json(value: Any) -> bytes:
    """The one form in which cefr-batch writes JSON: indented, UTF-8, newline at the end, NaN refused."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def check_key(key: str) -> str:
    """``key`` itself, if it cannot leave the store's root on any backend."""
    parts = key.split("/")
    if "\\" in key or "\0" in key or any(p in ("", ".", "..") for p in parts):
        raise StoreError(f"refused object key {key!r}: not a plain relative key")
    return key
