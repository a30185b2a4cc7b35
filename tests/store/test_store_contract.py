"""What every store promises, on a folder, SeaweedFS, rclone and moto."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cefr_batch.errors import AlreadyExists, NotFound, StoreError
from cefr_batch.store import Store
from cefr_batch.store.transfer import PART_BYTES, TransferItem, download, fetch, upload, verify

AWKWARD = ["plain.json", "deep/er/and/deeper.bin", "ümläut und Leerzeichen.txt", "a+b&c=d#e%20f?g~.txt", ".hidden/x"]


def test_an_object_is_what_was_written_last(any_store: Store) -> None:
    for data in (b"first", b"", b"\0\xff" * 1000):
        any_store.put("a/b.bin", data)
        assert any_store.get("a/b.bin") == data
    assert any_store.exists("a/b.bin")


@pytest.mark.slow
@pytest.mark.parametrize("key", AWKWARD)
def test_keys_are_kept_as_they_are(any_store: Store, key: str) -> None:
    any_store.put(key, b"1")
    assert any_store.get(key) == b"1"
    assert any_store.exists(key)
    assert [stored.key for stored in any_store.objects("")] == [key]
    any_store.delete(key)
    assert not any_store.exists(key)


@pytest.mark.parametrize("key", ["../x", "/x", "a//b", "a/../../x", "a\\b", "", "a/.", "a\0b", "a\nb"])
def test_keys_that_could_leave_the_store_are_refused(any_store: Store, key: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    for action in (
        lambda: any_store.put(key, b"1"),
        lambda: any_store.put_file(key, tmp_path / "file"),
        lambda: any_store.get(key),
        lambda: fetch(any_store, key, tmp_path / "copy"),
        lambda: any_store.exists(key),
        lambda: any_store.delete(key),
    ):
        with pytest.raises(StoreError, match="refused object key"):
            action()


def test_what_is_not_there_is_not_found(any_store: Store, tmp_path: Path) -> None:
    any_store.put("a/b", b"1")
    for key in ("a/c", "a", "a/b/c"):
        with pytest.raises(NotFound):
            any_store.get(key)
        with pytest.raises(NotFound):
            fetch(any_store, key, tmp_path / "copy")
        assert not any_store.exists(key)
    any_store.delete("a/c")
    assert list(tmp_path.glob("**/copy")) == []


def test_a_range_is_cut_like_a_slice(any_store: Store) -> None:
    any_store.put("x", data := b"0123456789")
    for start, stop in ((0, None), (4, None), (10, None), (99, None), (0, 3), (3, 7), (8, 99), (5, 5), (0, 0)):
        assert any_store.get("x", start=start, stop=stop) == data[start:stop]
    any_store.put("empty", b"")
    assert any_store.get("empty", start=3) == b""


def test_listings_are_complete_and_sorted(any_store: Store) -> None:
    keys = ["a-b/1", "a.txt", "a/1", "a/10", "a/2/x", "ab/1", "b"]
    for key in reversed(keys):
        any_store.put(key, key.encode())
    before = time.time()
    assert [stored.key for stored in any_store.objects("")] == keys
    assert [stored.key for stored in any_store.objects("a/")] == ["a/1", "a/10", "a/2/x"]
    assert [stored.key for stored in any_store.objects("a/1")] == ["a/1", "a/10"]
    assert list(any_store.objects("c/")) == []
    assert {stored.key: stored.size for stored in any_store.objects("a")} == {
        key: len(key) for key in keys if key.startswith("a")
    }
    assert all(abs(stored.modified - before) < 60 for stored in any_store.objects("a/"))
    assert any_store.folders("a/") == ["2"]
    assert any_store.folders("c/") == []


@pytest.mark.slow
def test_listings_go_over_many_pages(any_store: Store) -> None:
    keys = [f"runs/r{number:04}/x" for number in range(1005)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: any_store.put(key, b""), keys))
    assert [stored.key for stored in any_store.objects("runs/")] == keys
    assert any_store.folders("runs/") == [key.split("/")[1] for key in keys]


@pytest.mark.slow
def test_an_address_opens_the_same_store_again(any_store: Store) -> None:
    from cefr_batch.store import open_store

    any_store.put("x", b"1")
    again = open_store(any_store.url)
    assert again.url == any_store.url
    assert again.get("x") == b"1"


@pytest.mark.slow
def test_one_of_many_writers_claims_an_object(make_store: Callable[[], Store], kind: str) -> None:
    if kind == "rclone":
        pytest.skip("rclone serve s3 ignores If-None-Match: conditional writes are not atomic there")
    start = threading.Barrier(8)

    def claim(number: int) -> bool:
        store = make_store()
        start.wait()
        try:
            store.put("claimed", str(number).encode(), if_absent=True)
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(claim, range(8)))
    assert won.count(True) == 1
    assert make_store().get("claimed") == str(won.index(True)).encode()


def test_a_claimed_object_is_not_claimed_again(any_store: Store, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    any_store.put("claimed", b"first", if_absent=True)
    with pytest.raises(AlreadyExists, match="claimed exists already"):
        any_store.put("claimed", b"second", if_absent=True)
    assert any_store.get("claimed") == b"first"
    assert [stored.key for stored in any_store.objects("")] == ["claimed"], "nothing is left of trying it out"
    warned = "ignores conditional writes" in caplog.text
    assert warned == (kind == "rclone")


SIZES = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 17]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_files_go_and_come_back_whole(any_store: Store, tmp_path: Path, size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    source, target = tmp_path / "source", tmp_path / "new" / "folder" / "target"
    source.write_bytes(data[:size])
    assert any_store.put_file("model.bin", source) == hashlib.sha256(data[:size]).hexdigest()
    fetch(any_store, "model.bin", target)
    assert target.read_bytes() == data[:size]
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_file_that_cannot_be_read_is_an_error_and_stores_nothing(any_store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no-such-file.*No such file"):
        any_store.put_file("x", tmp_path / "no-such-file")
    assert not any_store.exists("x")


def test_unfinished_writes_of_a_killed_process_are_discarded(
    any_store: Store, kind: str, server_of: Callable[[str], object], tmp_path: Path
) -> None:
    for run in ("mine", "other"):
        any_store.put(f"runs/{run}/x", b"1")
        if kind == "file":
            (tmp_path / f"objects/runs/{run}/.aside-abc").write_bytes(b"half")
        else:
            _begin_upload(any_store, server_of(kind), f"runs/{run}/big")
    assert any_store.discard_unfinished("runs/mine/") == 1
    assert any_store.discard_unfinished("runs/mine/") == 0
    assert any_store.discard_unfinished("runs/nobody/") == 0
    assert any_store.discard_unfinished("") == 1
    assert any_store.discard_unfinished("") == 0
    assert any_store.get("runs/mine/x") == b"1"


def _begin_upload(store: Store, server: object, key: str) -> None:
    from clusters.s3 import BUCKET, Server

    assert isinstance(server, Server)
    name = store.locate(key).removeprefix(f"s3://{BUCKET}/")
    client = server.client()
    begun = client.create_multipart_upload(Bucket=BUCKET, Key=name)
    client.upload_part(Bucket=BUCKET, Key=name, UploadId=begun["UploadId"], PartNumber=1, Body=b"half")


# Many at once


def some_files(folder: Path) -> dict[str, Path]:
    sizes = {"a/small": 10, "a/empty": 0, "b/large": 2 * PART_BYTES + 5, **{f"c/{n}": n * 100 for n in range(40)}}
    files = {}
    for number, (key, size) in enumerate(sizes.items()):
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number % 256]) * size)
        files[key] = path
    return files


def items_of(files: dict[str, Path], hashes: dict[str, str]) -> list[TransferItem]:
    return [TransferItem(key, path.stat().st_size, hashes[key]) for key, path in files.items()]


@pytest.mark.slow
def test_many_files_at_once(any_store: Store, tmp_path: Path) -> None:
    files = some_files(tmp_path / "up")
    items = items_of(files, upload(any_store, files))
    counted: list[int] = []
    download(any_store, items, lambda item: tmp_path / "down" / item.key, counted.append)
    for key, path in files.items():
        assert (tmp_path / "down" / key).read_bytes() == path.read_bytes()
    assert sum(counted) == sum(item.size for item in items)
    assert verify(any_store, items) == {}


@pytest.mark.slow
def test_verify_names_everything_that_is_wrong(any_store: Store, tmp_path: Path) -> None:
    files = some_files(tmp_path)
    items = items_of(files, upload(any_store, files))
    any_store.delete("c/7")
    any_store.put("c/8", b"x" * 800)
    any_store.put("c/9", b"short")
    any_store.put("b/large", files["b/large"].read_bytes()[:-1] + b"!")
    wrong = verify(any_store, items)
    assert sorted(wrong) == ["b/large", "c/7", "c/8", "c/9"]
    assert "does not exist" in wrong["c/7"]
    assert "SHA-256" in wrong["c/8"]
    assert "recorded size" in wrong["c/9"]
    with pytest.raises(StoreError):
        download(any_store, items, lambda item: tmp_path / "down" / item.key)


@pytest.mark.slow
def test_a_download_goes_on_where_it_was_cut_off(any_store: Store, tmp_path: Path) -> None:
    files = some_files(tmp_path / "up")
    items = items_of(files, upload(any_store, files))
    read: list[tuple[str, int]] = []

    def cut_off(after: int) -> Callable[[int], None]:
        def count(_: int) -> None:
            if len(done) >= after:
                raise KeyboardInterrupt
            done.append(1)

        done: list[int] = []
        return count

    def path_of(item: TransferItem) -> Path:
        return tmp_path / "down" / item.key

    with pytest.raises(KeyboardInterrupt):
        download(any_store, items, path_of, cut_off(after=3))  # small, empty, and two of the three parts of large
    assert not path_of(items[2]).exists()
    real = any_store.get

    def get(key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        read.append((key, start))
        return real(key, start=start, stop=stop)

    any_store.get = get  # type: ignore[method-assign]
    download(any_store, items, path_of)
    keys = [key for key, _ in read]
    assert ("b/large", 2 * PART_BYTES) in read
    assert keys.count("b/large") == 1
    assert "a/small" not in keys
    for key, path in files.items():
        assert (tmp_path / "down" / key).read_bytes() == path.read_bytes()
    assert list((tmp_path / "down").rglob(".aside-*")) == []


def test_a_check_leaves_nothing_behind(any_store: Store) -> None:
    any_store.check()
    assert list(any_store.objects("")) == []
