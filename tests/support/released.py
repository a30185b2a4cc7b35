"""The store that version 0.1.0 wrote: two complete runs, a stopped one, a form with two raters."""

from __future__ import annotations

import shutil
import tarfile
from functools import cache
from pathlib import Path

from cefr_batch.store.local import LocalStore

FIXTURE = Path(__file__).parents[1] / "fixtures" / "store-0.1.0.tar.xz"
COMPLETE = ("tiny-a1-peft-v1", "tiny-b1-peft-v1")


@cache
def _documents() -> dict[str, bytes]:
    found = {}
    with tarfile.open(FIXTURE) as archive:
        for member in archive:
            key = member.name.partition("store/")[2]
            if key.endswith(".json") and (file := archive.extractfile(member)):
                found[key] = file.read()
    return found


def released_store(folder: Path) -> LocalStore:
    """All of it, as a store of the test's own in a new folder."""
    shutil.unpack_archive(FIXTURE, folder)
    return LocalStore(folder / "store")


def released_documents(folder: Path) -> LocalStore:
    """Its JSON documents in a store of the test's own: all that a report reads."""
    store = LocalStore(folder)
    for key, data in _documents().items():
        store.put(key, data)
    return store
