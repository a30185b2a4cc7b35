"""The interface of a store: objects under keys, as in S3. All state of cefr-batch lives behind it."""

from __future__ import annotations

import json
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from cefr_batch.errors import StoreError
from cefr_batch.files import json_bytes
from cefr_batch.records.document import R, StoredRecord, dump, parse

READERS = 16  # documents that commands read at the same time: a store may be far away


@dataclass(frozen=True)
class ObjectInfo:
    """An object's key, its size in bytes, and when it was last written (seconds since the epoch)."""

    key: str
    size: int
    modified: float


@dataclass(frozen=True)
class StoreKeys:
    """Keys of a store in object storage. Never shown; ``session_token`` is empty for keys that last."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)


class Store(ABC):
    """Objects under ``/``-separated keys. Safe to use from several threads.

    Writes are atomic: a reader sees the old object or the whole new one. Every method may block on the network and raises
    ``StoreError`` (``NotFound`` where the object is missing, ``Unavailable`` where trying later may help). Keys are
    validated by ``check_key``.
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
        """Write an object from a file, a part at a time; return the SHA-256 of what was written.

        The file does not change meanwhile, or only grows: then the object is a beginning of it, and the hash may be another.
        """

    @abstractmethod
    def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        """An object's bytes from offset ``start`` to before ``stop`` or its end (empty past the end)."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether there is an object with exactly this key."""

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
        """Remove what killed processes left of unfinished writes under ``prefix``; return how many there were.

        Call it only while nobody else writes there: a write in progress would fail. Where the credentials do not allow
        it, nothing is removed and a warning is logged.
        """

    def check(self) -> None:
        """Raise ``StoreError`` unless objects can be written and removed here. Leaves nothing behind."""
        key = f".check/{uuid4().hex}"
        self.put(key, b"", if_absent=True)
        self.delete(key)

    def put_record(self, key: str, record: StoredRecord, *, if_absent: bool = False) -> None:
        """Write a document, as ``put`` does."""
        self.put(key, dump(record), if_absent=if_absent)

    def get_record(self, key: str, kind: type[R]) -> R:
        """Read a document. Raises ``Damaged`` for an object that is not one of this kind, ``StoreError`` for a newer
        schema."""
        return parse(kind, self.get(key), self.locate(key))

    def put_json(self, key: str, value: Any, *, if_absent: bool = False) -> None:
        """``put`` of a JSON document."""
        self.put(key, to_json(value), if_absent=if_absent)

    def get_json(self, key: str) -> Any:
        """The JSON document of an object. Raises ``StoreError`` if it is not valid JSON."""
        data = self.get(key)
        try:
            return json.loads(data)
        except ValueError as exc:
            raise StoreError(
                f"{self.locate(key)} is not valid JSON ({exc}); was it edited or cut off? Restore it from a copy"
            ) from exc


def to_json(value: Any) -> bytes:
    """As ``files.json_bytes``."""
    return json_bytes(value)


def check_key(key: str) -> str:
    """``key`` itself, if it is a plain relative key. Raises ``StoreError`` if not.

    Refused are an empty part, ``.``, ``..``, backslashes and control characters.
    """
    parts = key.split("/")
    if "\\" in key or any(p in ("", ".", "..") for p in parts) or any(unicodedata.category(c) == "Cc" for c in key):
        raise StoreError(
            f"refused object key {key!r}: it must be a relative path without empty parts, '.', '..', backslashes and "
            "control characters"
        )
    return key


def path_below(folder: Path, key: str) -> Path:
    """The file of ``key`` in ``folder``. Raises ``StoreError`` if a symbolic link on the way leads out of the folder."""
    path = folder.joinpath(*check_key(key).split("/"))
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        inside = False
    if not inside:
        raise StoreError(f"refused {path}: a symbolic link on the way leads out of {folder}; remove the link")
    return path
