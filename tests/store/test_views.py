"""Stores that are read through: what they remember, what they refuse."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cefr_batch.errors import Damaged, NotFound, StoreError
from cefr_batch.store.local import LocalStore
from cefr_batch.store.transfer import TransferItem
from cefr_batch.store.views import CheckedStore, PinnedStore, ReadOnlyStore, RecordingStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    made = LocalStore(tmp_path / "store")
    for key in ("a/one", "a/two", "b/three"):
        made.put(key, key.encode())
    return made


def item(key: str, data: bytes) -> TransferItem:
    return TransferItem(key, len(data), hashlib.sha256(data).hexdigest())


def test_nothing_can_be_written_through_a_view(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    view = ReadOnlyStore(store)
    for write in (
        lambda: view.put("a/one", b"x"),
        lambda: view.put_file("a/one", tmp_path / "file"),
        lambda: view.delete("a/one"),
        lambda: view.discard_unfinished("a/"),
    ):
        with pytest.raises(StoreError, match="is opened for reading"):
            write()
    assert store.get("a/one") == b"a/one"
    assert view.url == store.url


def test_what_was_read_whole_is_remembered_as_it_was_then(store: LocalStore) -> None:
    view = RecordingStore(store)
    assert view.get("b/three") == b"b/three"
    view.get("a/two", stop=3)
    assert [stored.key for stored in view.objects("a/")] == ["a/one", "a/two"]
    with pytest.raises(NotFound):
        view.get("c")
    store.put("b/three", b"changed")
    view.get("b/three")
    view.get("a/one")
    assert view.read == [item("a/one", b"a/one"), item("b/three", b"b/three")]


@pytest.mark.parametrize("changed", [b"a/onE", b"a/one!", b""], ids=["a byte", "longer", "empty"])
@pytest.mark.parametrize("kind", [CheckedStore, PinnedStore])
def test_a_changed_object_is_named_and_not_given(store: LocalStore, kind: type[CheckedStore], changed: bytes) -> None:
    view = kind(store, [item("a/one", b"a/one"), item("a/two", b"a/two")], "the list")
    assert view.get("a/one") == b"a/one"
    assert view.get("a/one", start=2, stop=4) == b"on"
    store.put("a/one", changed)
    for part in ({}, {"start": 0, "stop": 1}):
        with pytest.raises(Damaged, match="a/one is not the object that the list names: "):
            view.get("a/one", **part)
    assert view.get("a/two") == b"a/two"


def test_an_object_that_is_not_named_is_as_it_is_or_is_not_there(store: LocalStore) -> None:
    named = [item("a/one", b"a/one")]
    assert CheckedStore(store, named, "the list").get("a/two") == b"a/two"
    pinned = PinnedStore(store, named, "the list")
    assert [stored.key for stored in pinned.objects("")] == ["a/one"]
    assert pinned.folders("") == ["a"]
    assert pinned.folders("a/") == []
    assert (pinned.exists("a/one"), pinned.exists("a/two")) == (True, False)
    with pytest.raises(NotFound, match="a/two is not among the objects that the list names"):
        pinned.get("a/two")


def test_a_named_object_that_is_missing_is_not_found(store: LocalStore) -> None:
    pinned = PinnedStore(store, [item("a/one", b"a/one")], "the list")
    store.delete("a/one")
    assert not pinned.exists("a/one")
    with pytest.raises(NotFound):
        pinned.get("a/one")
