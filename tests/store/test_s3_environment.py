"""What surrounds a store: credentials that expire, a proxy, a server that is overloaded for a moment."""

from __future__ import annotations

import re
import sys
from base64 import b64encode
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from clusters.s3 import KEYS

from cefr_batch.errors import StoreError, Unavailable
from cefr_batch.store import Store, open_store

pytestmark = pytest.mark.usefixtures("aws")

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


class OneKey(ThreadingHTTPServer):
    """A stand-in for a store: it answers PUT, GET and DELETE, and knows one access key, whose token it wants to see."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.valid = ""
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
        return (200, b"") if key == self.valid and token == f"token of {key}" else (400, EXPIRED)


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

    for action in (lambda: store.put("x", b"1"), lambda: store.get("x"), lambda: store.delete("x")):
        server.valid = f"key-{int(count.read_text()) + 1}"  # none but the next
        action()
    assert len(set(server.keys)) == 3


def test_expired_credentials_that_nothing_renews_are_named_at_once(
    server: OneKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "an-old-token")
    store = server.store
    for action in (lambda: store.put("x", b"1"), lambda: store.get("x"), lambda: store.delete("x")):
        before = len(server.keys)
        with pytest.raises(StoreError, match="s3://bucket/x: the credentials have expired; renew them") as caught:
            action()
        assert not isinstance(caught.value, Unavailable)
        assert "an-old-token" not in str(caught.value)
        assert len(server.keys) == before + 1, "to ask again would not help"


@pytest.fixture
def one_key(server: OneKey, monkeypatch: pytest.MonkeyPatch) -> OneKey:
    """The server knows this environment's key."""
    server.valid = KEYS["AWS_ACCESS_KEY_ID"]
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"token of {server.valid}")
    return server


def test_a_proxy_of_the_environment_is_used(one_key: OneKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", one_key.address.replace("//", "//me:secret@"))
    monkeypatch.setenv("NO_PROXY", "")
    store = open_store("s3://bucket?endpoint_url=http://store.invalid")
    store.put("x", b"1")
    store.delete("x")
    assert one_key.targets == ["http://store.invalid/bucket/x"] * 2
    assert one_key.proxy_users == ["Basic " + b64encode(b"me:secret").decode()] * 2


def test_a_server_that_is_overloaded_is_asked_again(one_key: OneKey) -> None:
    for action in (partial(one_key.store.put, "x", b"1"), partial(one_key.store.delete, "x")):
        one_key.overloaded = 2
        before = len(one_key.keys)
        action()
        assert len(one_key.keys) == before + 3
