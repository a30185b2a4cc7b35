"""A TCP proxy on loopback that counts what passes; it cuts, slows and refuses connections, damages bytes, and answers in the
server's place when it is told to."""

from __future__ import annotations

import random
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

_CHUNK = 1 << 16
_ANSWER_SECONDS = 10.0
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
    damage_object_after: int | None = None  # let so many objects be read, then flip one byte of the next
    delay_seconds: float = 0.0  # before each piece is passed on
    refusing: bool = False  # new connections are reset
    answer: bytes | None = None  # what every request on a new connection gets, in the server's place
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
        self.cut()

    def cut(self) -> None:
        """Reset every open connection."""
        with self._lock:
            for one in list(self._open):
                _reset(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                _reset(client)
                continue
            if self.answer is not None:
                threading.Thread(target=_answer, args=(client, self.answer), daemon=True).start()
                continue
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
        headed = False  # the headers of an object came last, and nothing of it yet
        try:
            while data := source.recv(_CHUNK):
                time.sleep(self.delay_seconds)
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
                    body = 0 if headed and not data.startswith(b"HTTP/") else _start_of_object(data)
                    headed = body == len(data)
                    data = self._maybe_damaged_object(data, body)
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
        return _flipped(data, len(data) // 2)

    def _maybe_damaged_object(self, data: bytes, start: int | None) -> bytes:
        """``start``: where an object begins in it; None if none does."""
        with self._lock:
            if self.damage_object_after is None or start is None or start == len(data):
                return data
            self.damage_object_after = self.damage_object_after - 1 if self.damage_object_after else None
            if self.damage_object_after is not None:
                return data
            self.damaged += 1
            return _flipped(data, self._dice.randrange(start, len(data)))


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _start_of_object(data: bytes) -> int | None:
    """Where in an answer the object's bytes begin, which may be its end; None if this is no beginning of such an answer."""
    head, blank, _ = data.partition(b"\r\n\r\n")
    lines = head.lower()
    is_object = lines.startswith((b"http/1.1 200", b"http/1.1 206")) and b"\netag:" in lines and b"/xml" not in lines
    return len(head) + len(blank) if is_object and blank else None


def _answer(client: socket.socket, answer: bytes) -> None:
    """Read one request, and answer it."""
    try:
        client.settimeout(_ANSWER_SECONDS)
        read = b""
        while b"\r\n\r\n" not in read and (more := client.recv(_CHUNK)):
            read += more
        head, _, body = read.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\ncontent-length: *([0-9]+)", head)
        left = 0 if length is None or b"100-continue" in head.lower() else int(length[1]) - len(body)
        while left > 0 and (more := client.recv(_CHUNK)):
            left -= len(more)
        client.sendall(answer)
        client.shutdown(socket.SHUT_WR)
        client.recv(_CHUNK)
    except OSError:
        pass
    client.close()


def _reset(one: socket.socket) -> None:
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    one.close()
