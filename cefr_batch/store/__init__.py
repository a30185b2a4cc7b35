"""Where runs live. ``open_store(url)`` is the way in; backends load only when their scheme is used."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cefr_batch.errors import UsageError
from cefr_batch.store.base import ObjectInfo, Store, to_json

DEFAULT_STORE = "./runs"

__all__ = ["DEFAULT_STORE", "ObjectInfo", "Store", "below", "open_store", "store_folder", "to_json"]


def open_store(url: str) -> Store:
    """The store at ``s3://bucket/prefix``, ``file:///folder`` or a plain folder path (relative to the current one)."""
    if urlsplit(url).scheme == "s3":
        from cefr_batch.store.s3 import S3Store

        return S3Store(url)
    folder = store_folder(url)
    if folder is None:
        kind = urlsplit(url).scheme
        raise UsageError(f"store {url!r}: unknown kind {kind!r}; valid kinds: a folder path, file://, s3://")
    from cefr_batch.store.local import LocalStore

    return LocalStore(folder)


def below(url: str, name: str) -> str:
    """The address of what is called ``name`` in the store at ``url`` (a store's own ``url``, which may hold options)."""
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()


def store_folder(url: str) -> Path | None:
    """The folder of a store that is one; None for any other. ``UsageError`` for a file address that cannot be one."""
    parts = urlsplit(url)
    if parts.scheme not in ("", "file") and not (len(parts.scheme) == 1 and parts.scheme.isalpha()):
        return None
    if parts.scheme != "file":
        folder = url
    elif parts.netloc in ("", "localhost"):
        folder = unquote(parts.path)
    else:
        raise UsageError(f"store {url!r}: a file URL has three slashes, as in file:///data/runs")
    if not folder.strip():
        raise UsageError("store: an empty address; give a folder (./runs) or a URL (file:///data/runs)")
    path = os.path.expanduser(folder)
    if path.startswith("~"):
        raise UsageError(f"store {url!r}: this machine has no user of this name; give the folder from / on")
    return Path(path)
