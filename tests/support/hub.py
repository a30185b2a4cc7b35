"""A small Hugging Face hub: a folder as a repository, and the answers that refuse one.

On localhost for tests of this machine; ``python hub.py FOLDER PORT`` serves all addresses, with nothing but Python.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN_WITH_ACCESS = "hf_withaccess"


@contextmanager
def running_hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The hub's URL and the paths of the files that were fetched from it whole. It knows these models::

    org/tiny     the files of ``folder``, revision main
    org/gated    the same, but files only with TOKEN_WITH_ACCESS
    org/limited  answers 429
    """
    fetched: list[str] = []
    server = _server(folder, fetched, ("127.0.0.1", 0))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _server(folder: Path, fetched: list[str], address: tuple[str, int]) -> ThreadingHTTPServer:
    class Handler(_Handler):
        root, log = folder, fetched

    return ThreadingHTTPServer(address, Handler)


class _Handler(BaseHTTPRequestHandler):
    root: Path
    log: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        api = path.startswith("/api/models/")
        org, name, *rest = path.removeprefix("/api/models/").strip("/").split("/")
        if name == "limited":
            return self._refuse(429, "")
        if f"{org}/{name}" not in ("org/tiny", "org/gated"):
            return self._refuse(401, "RepoNotFound")
        if rest[:1] == ["revision"] and rest[1] not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if api:
            return self._api(f"{org}/{name}", rest)
        if name == "gated" and self.headers.get("Authorization") != f"Bearer {TOKEN_WITH_ACCESS}":
            return self._refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        return self._file(rest[-1])

    def _api(self, repository: str, rest: list[str]) -> None:
        files = sorted(path for path in self.root.rglob("*") if path.is_file())
        names = [path.relative_to(self.root).as_posix() for path in files]
        if rest[:1] == ["tree"]:
            tree = zip(names, files, strict=True)
            entries = [{"type": "file", "path": n, "size": f.stat().st_size, "oid": _etag(f)} for n, f in tree]
            return self._json(entries)
        return self._json({"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]})

    def _file(self, name: str) -> None:
        path = self.root / name
        if not path.is_file():
            return self._refuse(404, "EntryNotFound")
        body, headers = path.read_bytes(), {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT}
        if part := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            return self._send(206, body[int(part[1]) : int(part[2]) + 1], headers)
        if self.command == "GET":
            self.log.append(name)
        return self._send(200, body, headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code} if code else {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    _server(Path(sys.argv[1]), [], ("0.0.0.0", int(sys.argv[2]))).serve_forever()
