"""Run the web application until Ctrl-C or SIGTERM."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from typing_extensions import override

from cefr_batch.errors import CefrBatchError
from cefr_batch.runner import Session
from cefr_batch.serve.app import make_app
from cefr_batch.serve.guard import own_names
from cefr_batch.serve.writing import Writing

_SECONDS_TO_END = 5  # that answers in progress have when the server stops


def serve(
    session: Session, host: str, port: int, writing: Writing | None, on_start: Callable[[str], None] = lambda _url: None
) -> None:
    """Serve the store, and the models of ``writing``; ``on_start`` gets the address.

    Blocks until SIGINT or SIGTERM, which then reaches the handler that was set before. ``port`` 0: any free one. Raises
    ``CefrBatchError`` if it cannot listen there.
    """
    listening = _listen(host, port)
    if writing:
        writing.warm_up()
    app = make_app(session, own_names(host), writing)
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off",
                            timeout_graceful_shutdown=_SECONDS_TO_END)  # fmt: skip
    on_start(_address(host, listening.getsockname()[1]))
    with listening:
        _Server(config, writing).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends what is being written as soon as it is told to stop: a stream would otherwise keep it waiting."""

    def __init__(self, config: uvicorn.Config, writing: Writing | None) -> None:
        super().__init__(config)
        self._writing = writing

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._writing:
            self._writing.close()
        super().handle_exit(sig, frame)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as exc:
        raise CefrBatchError(
            f"cannot listen at {host}, port {port}: {exc.strerror or exc}; choose another --port (0: any free one) or --host"
        ) from exc


def _address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
