"""Several fetches of the same files at once, as by two commands that use the same cache."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event

import pytest
from typing_extensions import override

from cefr_batch.store.local import LocalStore
from cefr_batch.store.transfer import PART_BYTES, TransferItem, download, fetch

READERS = 3
KEYS = ("runs/r/merged/model.safetensors", "runs/r/merged/config.json")


class ReadTogether(LocalStore):
    """A store whose readers all begin at the same moment."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.begun = Barrier(READERS)

    @override
    def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        if key == KEYS[0] and not start:
            self.begun.wait(timeout=30)
        return super().get(key, start=start, stop=stop)


def stored(store: LocalStore) -> Sequence[TransferItem]:
    """Two objects, one of several parts."""
    items = []
    for key, size in zip(KEYS, (2 * PART_BYTES + 5, 40), strict=True):
        data = os.urandom(size)
        store.put(key, data)
        items.append(TransferItem(key, size, hashlib.sha256(data).hexdigest()))
    return items


def test_readers_of_the_same_objects_leave_each_other_s_files_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ReadTogether(tmp_path / "store")
    items, folder = stored(store), tmp_path / "cache"
    counted = []

    def read(_: int) -> None:
        done: list[int] = []
        download(store, items, lambda item: folder / Path(item.key).name, done.append)
        counted.append(sum(done))

    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(READERS) as pool:
        list(pool.map(read, range(READERS)))
    assert counted == [sum(item.size for item in items)] * READERS
    assert sorted(one.name for one in folder.iterdir()) == ["config.json", "model.safetensors"]
    for item in items:
        assert hashlib.sha256((folder / Path(item.key).name).read_bytes()).hexdigest() == item.sha256
    assert "another cefr-batch process is fetching model.safetensors; waiting for it" in caplog.messages


def test_who_waited_for_one_that_was_stopped_fetches_the_rest(tmp_path: Path) -> None:
    """The first is stopped after its first part; the second, which had begun to read all of it, ends with the right file."""
    store = LocalStore(tmp_path / "store")
    item, path = stored(store)[0], tmp_path / "cache" / "model.safetensors"
    first, second = Event(), Event()

    def stop_after_a_part(_: int) -> None:
        first.set()
        second.wait(timeout=30)
        raise KeyboardInterrupt

    def follow() -> None:
        first.wait(timeout=30)
        seen: list[int] = []
        download(Telling(store.root, second), [item], lambda _: path, seen.append)

    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow)
        with pytest.raises(KeyboardInterrupt):
            download(store, [item], lambda _: path, stop_after_a_part)
        following.result()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == item.sha256
    assert list(path.parent.iterdir()) == [path]


class Telling(LocalStore):
    """A store that tells when it is first read."""

    def __init__(self, root: Path, told: Event) -> None:
        super().__init__(root)
        self.told = told

    @override
    def get(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        self.told.set()
        return super().get(key, start=start, stop=stop)


def test_small_objects_are_fetched_by_several_at_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.put("runs/r/manifest.json", b"{}")
    path = tmp_path / "cache" / "manifest.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: fetch(store, "runs/r/manifest.json", path), range(200)))
    assert [(one.name, one.read_bytes()) for one in path.parent.iterdir()] == [("manifest.json", b"{}")]
