"""What every request and every answer goes through: who may ask, and what a browser may do with the page."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Refuses requests that another site makes through a visitor's browser.

    The ``Host`` must be an address or one of ``names``: a site that has its own name point here (DNS rebinding) cannot send
    either. What changes or computes something takes JSON alone, which a browser sends to another origin only if that one
    allows it, and nothing here does.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, method: str, headers: Headers) -> PlainTextResponse | None:
        host = headers.get("host", "")
        if not is_own_name(host, self._names):
            return PlainTextResponse("This server does not have that name; use its address.\n", 421)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("This server answers only its own pages.\n", 403)
        if method not in ("GET", "HEAD") and headers.get("content-type", "").partition(";")[0] != "application/json":
            return PlainTextResponse("This server takes only JSON.\n", 415)
        return None


def is_own_name(host: str, names: Collection[str]) -> bool:
    """Whether a ``Host`` header is an IP address, which no one else can own, or one of these names."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in names
    return True


def own_names(host: str) -> set[str]:
    """The names by which a server that listens at ``host`` may be asked, in lower case."""
    names = {"localhost", host.lower()}
    return names if is_loopback(host) else names | {socket.gethostname().lower(), socket.getfqdn().lower()}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
