"""What only a folder can do wrong: rights, links out of it, mounts that lack something."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cefr_batch.errors import AlreadyExists, StoreError, StoreFull, Unavailable
from cefr_batch.store import open_store
from cefr_batch.store.local import LocalStore


def test_many_writers_at_once_keep_to_the_umask_and_never_set_it(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to the whole process: of two threads that set and restore it, one may restore what the other set."""

    def change(mask: int) -> int:
        raise AssertionError(f"umask({mask:#o})")

    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch, ThreadPoolExecutor(16) as pool:
            patch.setattr(os, "umask", change)
            list(pool.map(lambda number: store.put(f"runs/{number}", b"1"), range(100)))
    finally:
        left = os.umask(before)
    assert left == 0o027
    assert {path.stat().st_mode & 0o777 for path in Path(store.root, "runs").iterdir()} == {0o640}


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EIO, Unavailable),
        (errno.ESTALE, Unavailable),
        (errno.EACCES, StoreError),
        (errno.EROFS, StoreError),
    ],
    ids=errno.errorcode.get,
)
def test_a_full_disk_and_a_file_server_that_is_away_may_pass(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StoreError]
) -> None:
    """Whoever has results to store waits for it. The file system's error stands in for the file system."""

    def write(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(StoreError, match=f"cannot write .*/runs/x: {os.strerror(number)}") as caught:
        store.put("runs/x", b"1")
    assert type(caught.value) is kind
    assert list(Path(store.root, "runs").iterdir()) == []


def test_a_folder_whose_file_server_is_away_is_not_empty(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run would begin at its first step again. The file system's error stands in for the file system."""
    store.put("runs/x/checkpoints/step-5/checkpoint.json", b"{}")

    def scandir(path: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(Unavailable, match=r"cannot list .*: Stale file handle"):
        list(store.objects("runs/x/"))
    with pytest.raises(Unavailable, match="Stale file handle"):
        store.folders("runs/")


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ESTALE, Unavailable), (errno.EIO, Unavailable), (errno.EACCES, StoreError)],
    ids=errno.errorcode.get,
)
def test_an_object_that_cannot_be_looked_at_is_not_missing(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StoreError]
) -> None:
    """Else an older run would be taken for the newest complete one. The file system's error stands in for the file
    system."""
    store.put("runs/x/manifest.json", b"{}")
    look = os.stat

    def stat(path: int | str | Path, **options: Any) -> os.stat_result:
        if str(path).endswith("manifest.json"):
            raise OSError(number, os.strerror(number), path)
        return look(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(StoreError, match=f"cannot read .*/runs/x/manifest.json: {os.strerror(number)}") as caught:
        store.exists("runs/x/manifest.json")
    assert type(caught.value) is kind
    if kind is Unavailable:
        with pytest.raises(Unavailable, match=os.strerror(number)):
            list(store.objects("runs/"))


@pytest.mark.parametrize("key", ["runs/x", "runs/x/log/deeper", "runs/y/log"])
def test_a_folder_is_no_object_and_nothing_is_below_a_file(store: LocalStore, key: str) -> None:
    store.put("runs/x/log", b"1")
    assert not store.exists(key)


@pytest.fixture
def no_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a mount without them (gcsfuse, rclone mount, SMB)."""

    def link(source: object, _target: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), source)

    monkeypatch.setattr(os, "link", link)


def test_one_of_many_writers_claims_an_object_where_there_are_no_hard_links(
    store: LocalStore, no_hard_links: None
) -> None:
    def claim(number: int) -> bool:
        try:
            store.put("runs/claimed", str(number).encode(), if_absent=True)
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(claim, range(100)))
    assert won.count(True) == 1
    assert store.get("runs/claimed") == str(won.index(True)).encode()
    assert [path.name for path in Path(store.root, "runs").iterdir()] == ["claimed"]


@pytest.mark.parametrize("key", ["link/secret", "file"])
def test_a_link_out_of_the_store_is_not_followed(key: str, store: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"1")
    store.put("runs/x", b"1")
    (store.root / "link").symlink_to(outside)
    (store.root / "file").symlink_to(outside / "secret")
    for action in (
        lambda: store.get(key),
        lambda: store.put(key, b"2"),
        lambda: store.put(key, b"2", if_absent=True),
        lambda: store.put_file(key, outside / "secret"),
        lambda: store.exists(key),
        lambda: store.delete(key),
    ):
        with pytest.raises(StoreError, match="a symbolic link on the way leads out of"):
            action()
    for prefix in ("link/", "link/deeper/"):
        for listing in (store.folders, store.objects, store.discard_unfinished):
            with pytest.raises(StoreError, match="a symbolic link on the way leads out of"):
                listing(prefix)
    assert [found.key for found in store.objects("")] == ["runs/x"]
    assert (outside / "secret").read_bytes() == b"1"
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_a_pipe_in_place_of_an_object_is_an_error_and_nothing_waits_for_it(store: LocalStore) -> None:
    store.put("runs/x/log", b"1")
    os.mkfifo(store.root / "runs" / "x" / "status.json")
    with pytest.raises(
        StoreError, match="is a device or a pipe, and a stored file should be there; it holds no data, so delete it"
    ):
        store.get("runs/x/status.json")
    assert [one.key for one in store.objects("runs/")] == ["runs/x/log"]


def test_a_folder_whose_name_is_not_utf_8_is_found_again_by_its_address(tmp_path: Path) -> None:
    """As unzip leaves names of other systems; a job gets its store as an address."""
    store = LocalStore(tmp_path / os.fsdecode(b"s\xf6zl\xfck"))
    store.put("runs/x", b"1")
    assert open_store(store.url).get("runs/x") == b"1"


def test_a_store_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    LocalStore(tmp_path / "link").put("runs/x", b"1")
    assert LocalStore(tmp_path / "disk").get("runs/x") == b"1"
