"""A stand-in for Kubernetes' API server, on loopback: it keeps objects by their path and answers as a test tells it to.
The client is the real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@dataclass
class Api:
    """What the stand-in has and does. ``objects``: by path; ``refused``: for requests whose method and path begin so, the
    status, or the status and the message; ``calls``: method, path and query of every request."""

    kubeconfig: Path
    port: int = 0
    objects: dict[str, Object] = field(default_factory=dict)
    refused: dict[str, int | tuple[int, str]] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)  # as in "create jobs"
    pages: dict[str, str] = field(default_factory=dict)  # what a proxy answers instead, by path
    calls: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)  # of each request
    gone_after: int = 0  # requests until a Job that is being deleted is gone
    dropped: set[str] = field(default_factory=set)  # fields of a Job's spec that this server does not know
    changed: dict[str, Any] = field(default_factory=dict)  # what an admission webhook makes of them
    kueue: bool = False
    replaced_before_deletion: bool = False
    deletions: list[Object] = field(default_factory=list)  # the options of every DELETE
    created: int = 0  # objects so far, for their UIDs

    def add(self, path: str, *objects: Object) -> None:
        for one in objects:
            self.objects[f"{path}/{one['metadata']['name']}"] = one

    def asked(self, start: str) -> list[str]:
        return [call for call in self.calls if call.startswith(start)]

    def write_kubeconfig(self, token: str = "t") -> None:
        names = ("here", "arn:aws:eks:eu-west-1:1:cluster/here")
        text = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": n, "context": {"cluster": "c", "user": "u", "namespace": "team"}} for n in names],
            "current-context": "here",
        }
        self.kubeconfig.write_text(json.dumps(text))


@contextmanager
def running_api(kubeconfig: Path) -> Iterator[Api]:
    api = Api(kubeconfig)

    class Handler(_Handler):
        told = api

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.port = server.server_port
    api.write_kubeconfig()
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    told: Api
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer takes 40 ms

    def do_GET(self) -> None:
        path, api = self._begin(), self.told
        if path is None:
            return None
        if path in api.pages:
            return self._send(200, api.pages[path])
        if path == "/version/":
            return self._send(200, {"gitVersion": "v1.33.0"})
        if path == "/apis/":
            group = {"name": "kueue.x-k8s.io", "preferredVersion": {"version": "v1beta1"}}
            return self._send(200, {"groups": [group] if api.kueue else []})
        if path.endswith("/log"):
            return self._send(200, api.objects[path])
        if path in api.objects:
            return self._send(200, self._maybe_gone(path))
        below = [value for key, value in api.objects.items() if key.rpartition("/")[0] == path]
        if path.rpartition("/")[2] in ("jobs", "pods", "events", "nodes", "workloads"):
            return self._send(200, {"items": [one for one in below if self._selected(one)]})
        return self._refuse(404, f'"{path.rpartition("/")[2]}" not found')

    def do_POST(self) -> None:
        path, api = self._begin(), self.told
        if path is None:
            return None
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if path == _REVIEWS:
            wanted = body["spec"]["resourceAttributes"]
            resource = "/".join(part for part in (wanted["resource"], wanted["subresource"]) if part)
            allowed = f"{wanted['verb']} {resource}" not in api.forbidden
            return self._send(201, {**body, "status": {"allowed": allowed}})
        key = f"{path}/{body['metadata']['name']}"
        if key in api.objects:
            return self._refuse(409, f"{key} already exists")
        api.created += 1
        taken = {**body, "metadata": {**body["metadata"], "uid": f"{api.created:08x}-0000-4000-8000-000000000000"}}
        taken["spec"] = {k: v for k, v in {**body["spec"], **api.changed}.items() if k not in api.dropped}
        if "dryRun" not in self._query():
            api.objects[key] = taken
        return self._send(201, taken)

    def do_DELETE(self) -> None:
        path, api = self._begin(), self.told
        if path is None:
            return None
        options = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        api.deletions.append(options)
        if path not in api.objects:
            return self._refuse(404, "not found")
        if api.replaced_before_deletion:
            api.objects[path]["metadata"]["uid"] = "ffffffff-0000-4000-8000-000000000000"
        uid = (options.get("preconditions") or {}).get("uid")
        if uid and uid != api.objects[path]["metadata"].get("uid"):
            return self._refuse(409, f"Precondition failed: UID in precondition: {uid}")
        api.objects[path]["metadata"]["deletionTimestamp"] = "2026-11-22T18:00:00Z"
        if not api.gone_after:
            del api.objects[path]
        return self._send(200, {})

    def _maybe_gone(self, path: str) -> Object:
        found = self.told.objects[path]
        if found["metadata"].get("deletionTimestamp"):
            self.told.gone_after -= 1
            if self.told.gone_after <= 0:
                del self.told.objects[path]
        return found

    def _begin(self) -> str | None:
        """The path; None if it was refused."""
        path = urlsplit(self.path).path
        self.told.calls.append(f"{self.command} {self.path}")
        self.told.tokens.append((self.headers["Authorization"] or "").removeprefix("Bearer "))
        for start, status in self.told.refused.items():
            if f"{self.command} {path}".startswith(start):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self._refuse(*(status if isinstance(status, tuple) else (status, f"refused with {status}")))
                return None
        return path

    def _selected(self, one: Object) -> bool:
        """Whether an object is what the field selector asks for; only that of events counts here."""
        (selector,) = self._query().get("fieldSelector", [""])
        wanted = selector.partition("involvedObject.uid=")[2]
        return not wanted or (one.get("involvedObject") or {}).get("uid") == wanted

    def _query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)

    def _refuse(self, status: int, message: str) -> None:
        self._send(status, {"kind": "Status", "status": "Failure", "message": message, "code": status})

    def _send(self, status: int, body: Any) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass
