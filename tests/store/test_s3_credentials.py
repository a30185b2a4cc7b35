"""Credentials that expire: renewed where the AWS chain can, named where it cannot."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from cefr_batch.errors import StoreError, Unavailable
from cefr_batch.store import Store, open_store

pytestmark = pytest.mark.usefixtures("aws")

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


class OneKey(ThreadingHTTPServer):
    """A stand-in for a store: it answers PUT, GET and DELETE, and knows one access key, whose token it wants to see."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.valid = ""
        self.seen: list[str] = []

    @property
    def store(self) -> Store:
        return open_store(f"s3://bucket?endpoint_url=http://127.0.0.1:{self.server_port}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OneKey

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = re.search(r"Credential=([^/]+)/", self.headers["Authorization"])
        key = found[1] if found else ""
        self.server.seen.append(key)
        good = key == self.server.valid and self.headers["X-Amz-Security-Token"] == f"token of {key}"
        body = b"" if good else EXPIRED
        self.send_response(200 if good else 400)
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
    assert len(set(server.seen)) == 3


def test_expired_credentials_that_nothing_renews_are_named_at_once(
    server: OneKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "an-old-token")
    store = server.store
    for action in (lambda: store.put("x", b"1"), lambda: store.get("x"), lambda: store.delete("x")):
        before = len(server.seen)
        with pytest.raises(StoreError, match="s3://bucket/x: the credentials have expired; renew them") as caught:
            action()
        assert not isinstance(caught.value, Unavailable)
        assert "an-old-token" not in str(caught.value)
        assert len(server.seen) == before + 1, "to ask again would not help"
