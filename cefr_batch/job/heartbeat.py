"""The job's heartbeat: a thread that stores status and results while stages compute."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Heartbeat:
    """While entered, calls ``beat`` every ``interval`` seconds in a thread. A failure is logged once, and retried with the
    next beat. Leaving waits for a beat that is under way."""

    def __init__(self, beat: Callable[[], None], interval: float) -> None:
        self._beat, self._interval = beat, interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        failure = ""
        while not self._stop.wait(self._interval):
            try:
                self._beat()
                failure = ""
            except Exception as exc:
                if str(exc) != failure:
                    log.warning("storing is delayed, will try again: %s", exc)
                failure = str(exc)
