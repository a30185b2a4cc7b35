"""What surrounds a store: credentials that expire, a proxy, a server that is overloaded for a moment."""

from __future__ import annotations

import re
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import boto3
import moto
import pytest
from clusters.s3 import KEYS, Server

from cefr_batch.errors import CredentialsError, StoreError
from cefr_batch.store import Store, open_store
from cefr_batch.store.transfer import PART_BYTES

pytestmark = pytest.mark.usefixtures("aws")

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


class OneKey(ThreadingHTTPServer):
    """A stand-in for a store: it answers PUT, GET and DELETE, and knows one access key, whose token it wants to see."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.valid: Callable[[], str] = str
        self.overloaded = 0  # so many requests are answered 503
        self.keys: list[str] = []  # with which requests were signed
        self.targets: list[str] = []  # what they asked for
        self.proxy_users: list[str | None] = []  # what they said to a proxy

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def store(self) -> Store:
        return open_store(f"s3://bucket?endpoint_url={self.address}")

    def answer(self, key: str, token: str | None) -> tuple[int, bytes]:
        if self.overloaded:
            self.overloaded -= 1
            return 503, b"<Error><Code>SlowDown</Code></Error>"
        return (200, b"") if key == self.valid() and token == f"token of {key}" else (400, EXPIRED)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OneKey

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = re.search(r"Credential=([^/]+)/", self.headers["Authorization"])
        key = found[1] if found else ""
        self.server.keys.append(key)
        self.server.proxy_users.append(self.headers["Proxy-Authorization"])
        self.server.targets.append(self.path)
        status, body = self.server.answer(key, self.headers["X-Amz-Security-Token"])
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[OneKey]:
    server = OneKey()
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


PROCESS = """
import datetime, json, pathlib
count = pathlib.Path({count!r})
number = int(count.read_text()) + 1
count.write_text(str(number))
key = f"key-{{number}}"
soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=5)  # so soon that it is renewed at once
print(json.dumps(dict(Version=1, AccessKeyId=key, SecretAccessKey="s", SessionToken=f"token of {{key}}",
                      Expiration=soon.isoformat())))
"""


def test_credentials_that_are_about_to_expire_are_renewed(
    server: OneKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, process, config = tmp_path / "count", tmp_path / "process.py", tmp_path / "config"
    count.write_text("0")
    process.write_text(PROCESS.format(count=str(count)))
    config.write_text(f"[default]\ncredential_process = {sys.executable} {process}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    store = server.store

    server.valid = lambda: f"key-{count.read_text()}"  # none but the newest
    for action in (lambda: store.put("x", b"1"), lambda: store.get("x"), lambda: store.delete("x")):
        action()
    assert len(server.keys) == len(set(server.keys)) == 3


@pytest.mark.slow
def test_credentials_that_are_rewritten_in_their_file_are_read_again(
    server: OneKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)

    def write(key: str) -> None:
        file.write_text(
            f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\naws_session_token = token of {key}\n"
        )

    write("old")
    server.valid = lambda: "old"
    store = server.store
    store.put("x", b"1")
    server.valid = lambda: "new"
    with pytest.raises(CredentialsError):
        store.put("x", b"1")
    write("new")
    store.put("x", b"1")
    store.put("x", b"1")
    assert server.keys == ["old", "old", "old", "new", "new"]


@pytest.mark.parametrize(
    ("source", "config", "environment"),
    [
        ("custom-process", "credential_process = /opt/none/get-credentials", {}),
        ("custom-process", "credential_process = echo please log in", {}),
        (
            "assume-role-with-web-identity",
            "",
            {"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/r", "AWS_WEB_IDENTITY_TOKEN_FILE": "/none/token"},
        ),
        (
            "container-role",
            "",
            {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/v1/credentials",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/none/token",
            },
        ),
    ],
)
def test_a_source_of_credentials_that_fails_is_named(
    source: str, config: str, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(f"[default]\n{config}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store = open_store("s3://bucket?endpoint_url=http://127.0.0.1:9")
    with pytest.raises(CredentialsError, match=f"no credentials from their source '{source}'") as caught:
        store.get("x")
    assert "Expecting value" not in str(caught.value)


def test_keys_with_a_line_break_are_refused_before_they_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key\n")
    with pytest.raises(CredentialsError, match="begins or ends with a space or a line break"):
        open_store("s3://bucket?endpoint_url=http://127.0.0.1:9").get("x")


def test_expired_credentials_that_nothing_renews_are_named_at_once(
    server: OneKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "an-old-token")
    store = server.store
    for action in (lambda: store.put("x", b"1"), lambda: store.get("x"), lambda: store.delete("x")):
        before = len(server.keys)
        with pytest.raises(StoreError, match="s3://bucket/x: the credentials have expired; renew them") as caught:
            action()
        assert isinstance(caught.value, CredentialsError)
        assert "an-old-token" not in str(caught.value)
        assert len(server.keys) == before + 1, "to ask again would not help"


@pytest.fixture
def one_key(server: OneKey, monkeypatch: pytest.MonkeyPatch) -> OneKey:
    """The server knows this environment's key."""
    server.valid = lambda: KEYS["AWS_ACCESS_KEY_ID"]
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"token of {server.valid()}")
    return server


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_a_proxy_of_the_environment_is_used(scheme: str, one_key: OneKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", one_key.address.replace("http://", f"{scheme}me:secret@"))
    monkeypatch.setenv("NO_PROXY", "")
    store = open_store("s3://bucket?endpoint_url=http://store.invalid")
    store.put("x", b"1")
    store.delete("x")
    assert one_key.targets == ["http://store.invalid/bucket/x"] * 2
    assert one_key.proxy_users == ["Basic " + b64encode(b"me:secret").decode()] * 2


@pytest.mark.slow
def test_a_server_that_is_overloaded_is_asked_again(one_key: OneKey) -> None:
    for action in (partial(one_key.store.put, "x", b"1"), partial(one_key.store.delete, "x")):
        one_key.overloaded = 2
        before = len(one_key.keys)
        action()
        assert len(one_key.keys) == before + 3


def test_on_aws_itself_boto3s_own_checksums_are_used(tmp_path: Path) -> None:
    """moto stands in for AWS, in this process."""
    (tmp_path / "large").write_bytes(b"x" * (PART_BYTES + 5))
    with moto.mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        store = open_store("s3://bucket/runs?region=us-east-1")
        store.put("small", b"1", if_absent=True)
        store.put_file("large", tmp_path / "large")
        assert store.get("large", start=PART_BYTES) == b"x" * 5
        for name in ("small", "large"):
            head = client.head_object(Bucket="bucket", Key=f"runs/{name}", ChecksumMode="ENABLED")
            assert any(field.startswith("ChecksumCRC") for field in head), head


def test_objects_are_written_as_a_bucket_demands_it(server_of: Callable[[str], Server], tmp_path: Path) -> None:
    """Small, claimed, and in parts: every way in which an object comes into the bucket."""
    file = tmp_path / "weights"
    file.write_bytes(bytes(2 * PART_BYTES + 1))
    url = server_of("moto").url("demanded")
    store = open_store(f"{url}&sse=aws:kms&sse_kms_key_id=alias/cefr&storage_class=STANDARD_IA")
    store.put("small", b"x")
    store.put("claimed", b"x", if_absent=True)
    store.put_file("weights", file)
    client = boto3.client("s3", endpoint_url=parse_qs(urlsplit(url).query)["endpoint_url"][0], region_name="us-east-1")
    for name in ("small", "claimed", "weights"):
        head = client.head_object(Bucket=urlsplit(url).netloc, Key=f"demanded/{name}")
        written = [head[key] for key in ("ServerSideEncryption", "SSEKMSKeyId", "StorageClass")]
        assert written == ["aws:kms", "alias/cefr", "STANDARD_IA"]
    assert head["ETag"].rstrip('"').endswith("-3")
