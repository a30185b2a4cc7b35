"""The part of the Hugging Face hub that takes uploads, on localhost: a stand-in by its HTTP interface."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class UploadHub:
    """What arrived. ``files``: of all commits, by name; ``blobs``: large files by their SHA-256; ``tokens``: what requests
    to the hub itself were signed with."""

    url: str = ""
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    refuses: int | None = None


@contextmanager
def running_upload_hub(refuses: int | None = None) -> Iterator[UploadHub]:
    """A hub that has no repository yet. ``refuses``: the status with which it answers everything."""
    hub_state = UploadHub(refuses=refuses)

    class Handler(_Handler):
        hub = hub_state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub_state.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub_state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: UploadHub

    def do_GET(self) -> None:
        self._answer(404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.tokens.add(self.headers.get("Authorization") or "")
        if self.hub.refuses:
            return self._answer(self.hub.refuses, {"error": "no"})
        if self.path.endswith("/repos/create"):
            asked = json.loads(body)
            self.hub.created.append(asked)
            return self._answer(200, {"url": f"{self.hub.url}/{asked['organization']}/{asked['name']}"})
        if "/preupload/" in self.path:
            files = [one["path"] for one in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": _mode(path), "shouldIgnore": False} for path in files]
            return self._answer(200, {"files": modes})
        if self.path.endswith("/objects/batch"):
            objects = [self._wanted(one) for one in json.loads(body)["objects"]]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        if "/commit/" in self.path:
            self._commit(body)
            return self._answer(200, {"commitUrl": f"{self.hub.url}/me/model/commit/1", "commitOid": "1"})
        return self._answer(200, {"errors": [], "warnings": []})  # of the card's metadata

    def do_PUT(self) -> None:
        self.hub.blobs[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, {})

    def _wanted(self, one: dict[str, Any]) -> dict[str, Any]:
        """An object without an action is there already."""
        there = one["oid"] in self.hub.blobs
        action = {} if there else {"actions": {"upload": {"href": f"{self.hub.url}/blobs/{one['oid']}"}}}
        return {"oid": one["oid"], "size": one["size"], **action}

    def _commit(self, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[value["path"]] = self.hub.blobs[value["oid"]]

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _mode(path: str) -> str:
    return "lfs" if path.endswith((".gguf", ".safetensors")) else "regular"
