"""S3 under faults: cut connections, damaged bytes, a server that is away, answers that are errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer

import pytest
from clusters.proxy import Proxy
from clusters.s3 import BUCKET, Server, free_ports

from cefr_batch.errors import NotFound, StoreError, Unavailable, UsageError
from cefr_batch.store import Store, open_store, s3
from cefr_batch.store.transfer import PART_BYTES, TransferItem, download, upload, verify

pytestmark = pytest.mark.usefixtures("aws")


@pytest.fixture
def server(server_of: Callable[[str], Server]) -> Server:
    return server_of("moto")


def url(name: str, port: int, bucket: str = BUCKET) -> str:
    return f"s3://{bucket}/{name}?endpoint_url=http://127.0.0.1:{port}"


def written(folder: Path, sizes: dict[str, int]) -> dict[str, Path]:
    folder.mkdir()
    for number, (name, size) in enumerate(sizes.items()):
        (folder / name).write_bytes(bytes((number + i) % 256 for i in range(997)) * (size // 997 + 1))
    return {f"x/{name}": folder / name for name in sizes}


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["seaweedfs", "rclone"])
def test_connections_cut_at_random_bytes_lose_nothing(
    kind: str, server_of: Callable[[str], Server], tmp_path: Path
) -> None:
    sizes = {"large": 2 * PART_BYTES + 5, **{f"small{n}": 20_000 for n in range(8)}}
    files = written(tmp_path / "up", sizes)
    with Proxy(server_of(kind).port, seed=kind, cut_after_bytes=7_000_000) as proxy:
        store = open_store(url(f"cut-{kind}", proxy.port))
        hashes = upload(store, files)
        items = [TransferItem(key, path.stat().st_size, hashes[key]) for key, path in files.items()]
        download(store, items, lambda item: tmp_path / "down" / item.key)
        assert verify(store, items) == {}
        assert proxy.cuts >= 1, "the proxy should have cut something"
        assert store.discard_unfinished("") == 0
    for key, path in files.items():
        assert (tmp_path / "down" / key).read_bytes() == path.read_bytes()


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["seaweedfs", "rclone"])  # moto does not look at Content-MD5
def test_a_part_damaged_on_the_way_is_sent_again(kind: str, server_of: Callable[[str], Server], tmp_path: Path) -> None:
    files = written(tmp_path / "up", {"large": 2 * PART_BYTES})
    with Proxy(server_of(kind).port) as proxy:
        store = open_store(url(f"damaged-{kind}", proxy.port))
        proxy.damage_upload_larger_than = PART_BYTES // 2
        sha256 = store.put_file("x/large", files["x/large"])
        assert proxy.damaged == 1
        assert verify(store, [TransferItem("x/large", files["x/large"].stat().st_size, sha256)]) == {}


def test_an_object_damaged_on_the_way_is_read_again(server: Server) -> None:
    """A record that parses although a digit of it has changed would be believed."""
    with Proxy(server.port) as proxy:
        store = open_store(url("read", proxy.port))
        store.put("x/status.json", b'{"step": 1234567890}')
        for bounds in ({}, {"stop": 20}):
            proxy.damage_object_after = 0
            assert store.get("x/status.json", **bounds) == b'{"step": 1234567890}'
            assert proxy.damage_object_after is None
        assert proxy.damaged == 2
        assert store.get("x/status.json", start=2, stop=6) == b"step"


@pytest.mark.slow
def test_a_server_whose_etags_are_no_md5_is_believed(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An MD5 that never fits stands in for such a server."""
    store = open_store(url("etags", server.port))
    store.put("x", b"1")
    monkeypatch.setattr(s3, "_differs", lambda *_: True)
    assert [store.get("x"), store.get("x")] == [b"1", b"1"]
    assert caplog.text.count("arrived damaged") == 1


@pytest.mark.e2e
def test_a_server_that_is_away_for_seconds_is_waited_for(
    server_of: Callable[[str], Server], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # boto3 itself does not wait
    server = server_of("rclone")
    store = open_store(url("away", server.port))
    server.kill()
    back = Timer(2, server.start)
    back.start()
    store.put("x", b"1")
    back.join()
    assert store.get("x") == b"1"
    assert "cannot be reached" in caplog.text


# One sentence each


@pytest.fixture
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEFR_BATCH_STORE_RETRY_TIMEOUT", "0.1")


def error_of(store: Store) -> str:
    with pytest.raises(StoreError) as caught:
        store.put("x", b"1")
    assert not isinstance(caught.value, NotFound)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
def test_an_endpoint_that_cannot_be_reached(short_retries: None) -> None:
    (port,) = free_ports(1)
    store = open_store(url("x", port))
    started = time.monotonic()
    with pytest.raises(Unavailable, match=rf"the store at http://127.0.0.1:{port} cannot be reached \(.*refused\)"):
        store.put("x", b"1")
    with pytest.raises(Unavailable):
        list(store.objects(""))
    assert time.monotonic() - started < 15


def test_a_retry_timeout_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEFR_BATCH_STORE_RETRY_TIMEOUT", "soon")
    with pytest.raises(UsageError, match="CEFR_BATCH_STORE_RETRY_TIMEOUT='soon' is not a number of seconds"):
        open_store("s3://bucket")


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["rclone", "moto"])  # SeaweedFS makes the bucket
def test_a_bucket_that_does_not_exist(kind: str, server_of: Callable[[str], Server]) -> None:
    store = open_store(url("x", server_of(kind).port, bucket="missing-bucket"))
    assert "bucket 'missing-bucket' does not exist; create it or correct --store" in error_of(store)
    for action in (lambda: list(store.objects("")), lambda: store.exists("x"), lambda: store.get("x")):
        with pytest.raises(StoreError, match="'missing-bucket' does not exist"):
            action()


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["seaweedfs", "rclone"])  # moto accepts all keys
def test_wrong_keys(kind: str, server_of: Callable[[str], Server], monkeypatch: pytest.MonkeyPatch) -> None:
    port = server_of(kind).port
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    assert "the secret key does not belong to this access key; check AWS_" in error_of(open_store(url("x", port)))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    store = open_store(url("x", port))
    assert "the store does not know this access key; check AWS_ACCESS_KEY_ID" in error_of(store)
    assert "wrong-secret" not in error_of(store)


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match=f"no credentials for bucket '{BUCKET}'; set AWS_ACCESS_KEY_ID and"):
        open_store(url("x", server.port)).put("x", b"1")


def test_a_profile_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreError, match=r"nobody.*correct AWS_PROFILE"):
        open_store(url("x", server.port)).put("x", b"1")
