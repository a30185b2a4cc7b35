"""A TCP proxy on loopback that counts what passes, cuts connections, and damages bytes when it is told to."""

from __future__ import annotations

import random
import socket
import struct
import threading
from dataclasses import dataclass, field

_CHUNK = 1 << 16
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST, as a machine that died


@dataclass
class Proxy:
    """Forwards connections to a port. ``with`` starts and stops it."""

    target: int
    seed: int | str = 0
    cut_after_bytes: float | None = None  # on average, each connection: it is cut at a random byte
    down_bytes: int = 0  # from the server, so far
    up_bytes: int = 0
    cuts: int = 0
    damaged: int = 0
    damage_upload_larger_than: int | None = None  # flip one byte of the next such upload
    port: int = 0
    _listener: socket.socket = field(default_factory=socket.socket, repr=False)
    _open: set[socket.socket] = field(default_factory=set, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __enter__(self) -> Proxy:
        self._dice = random.Random(self.seed)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        with self._lock:
            for one in list(self._open):
                _reset(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=10)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
                left = [self._dice.expovariate(1 / self.cut_after_bytes)] if self.cut_after_bytes else [float("inf")]
            for source, sink, upwards in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, upwards, left), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, upwards: bool, left: list[float]) -> None:
        passed = 0  # since the other side last spoke: about the size of this message
        try:
            while data := source.recv(_CHUNK):
                passed += len(data)
                left[0] -= len(data)
                if left[0] < 0:
                    sink.sendall(data[: max(0, int(len(data) + left[0]))])
                    self.cuts += 1
                    break
                if upwards:
                    data = self._maybe_damaged(data, passed)
                    self.up_bytes += len(data)
                else:
                    self.down_bytes += len(data)
                sink.sendall(data)
        except OSError:
            pass
        for one in (source, sink):
            _reset(one)
        with self._lock:
            self._open -= {source, sink}

    def _maybe_damaged(self, data: bytes, passed: int) -> bytes:
        with self._lock:
            limit = self.damage_upload_larger_than
            # A full read is in the middle of a body: headers are short, and stand at the beginning.
            if limit is None or passed < limit or len(data) < 4096:
                return data
            self.damage_upload_larger_than = None
            self.damaged += 1
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _reset(one: socket.socket) -> None:
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    one.close()
