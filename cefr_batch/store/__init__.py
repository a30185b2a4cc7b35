"""Where runs live. ``open_store(url)`` is the way in; backends load only when their scheme is used."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from cefr_batch.errors import CefrBatchError, UsageError
from cefr_batch.store.base import ObjectInfo, Store, StoreKeys, to_json

DEFAULT_STORE = "./runs"

__all__ = [
    "DEFAULT_STORE",
    "ObjectInfo",
    "Store",
    "StoreKeys",
    "below",
    "open_store",
    "own_keys",
    "same_store",
    "store_folder",
    "to_json",
    "unreachable_endpoint",
]


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


def own_keys(url: str) -> StoreKeys | None:
    """The keys with which this process opens the store: from the environment, or wherever its client finds them; None where
    there are none, as of a folder, or where they cannot be had. May block for a few seconds."""
    if urlsplit(url).scheme != "s3":
        return None
    try:
        from cefr_batch.store.s3 import found_keys

        return found_keys(url)
    except CefrBatchError:  # why: the check of the store says it
        return None


def below(url: str, name: str) -> str:
    """The address of what is called ``name`` in the store at ``url`` (a store's own ``url``, which may hold options)."""
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()


def same_store(url: str, other: str) -> bool:
    """Whether two addresses open the same store; a folder may have several names."""
    if url == other:
        return True
    folders = [Path(unquote(urlsplit(one).path)).resolve() for one in (url, other) if one.startswith("file://")]
    return len(folders) == 2 and folders[0] == folders[1]


def store_folder(url: str) -> Path | None:
    """The folder of a store that is one; None for any other. ``UsageError`` for a file address that cannot be one."""
    parts = urlsplit(url)
    if parts.scheme not in ("", "file") and not (len(parts.scheme) == 1 and parts.scheme.isalpha()):
        return None
    if parts.scheme != "file":
        folder = url
    elif parts.netloc in ("", "localhost"):
        folder = unquote(parts.path, errors="surrogateescape")  # as a path holds bytes that are not UTF-8
    else:
        raise UsageError(f"store {url!r}: a file URL has three slashes, as in file:///data/runs")
    if not folder.strip():
        raise UsageError("store: the address is empty; give a folder (./runs) or a URL (s3://bucket/prefix)")
    path = os.path.expanduser(folder)
    if path.startswith("~"):
        raise UsageError(f"store {url!r}: this machine has no user {path.split('/')[0][1:]!r}; give an absolute path")
    return Path(path)


def _loopback_endpoint(url: str) -> str | None:
    """The endpoint of a store's address if it names the machine that asks (``localhost``, ``127.0.0.1``, ``[::1]``), and so
    another one on each machine; None for any other. Resolves no names."""
    endpoint = next(iter(parse_qs(urlsplit(url).query).get("endpoint_url", ())), "")
    host = (urlsplit(endpoint).hostname or "").rstrip(".")
    try:
        here = (address := ip_address(host)).is_loopback or address.is_unspecified
    except ValueError:
        here = host == "localhost" or host.endswith(".localhost")
    return endpoint if here else None


def unreachable_endpoint(url: str, *, inside: str, there: str) -> str:
    """Why jobs elsewhere cannot reach a store by its address; empty if they can, as far as it tells. ``inside``: what the
    address is read in, and ``there``: the machine that it then names, as in a pod and the pod."""
    if not (endpoint := _loopback_endpoint(url)):
        return ""
    return (
        f"the store's endpoint {endpoint} is this machine itself, and in a {inside} it is the {there}; give the address by "
        f"which {there}s reach the server, as in --store 's3://bucket/prefix?endpoint_url=https://s3.example.org'"
    )
