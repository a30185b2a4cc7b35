"""SIGTERM, SIGUSR2, Ctrl-C and a terminal that closes (SIGHUP) all ask a job to stop: finish the step, store a checkpoint,
exit.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

_ALWAYS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class StopSignals:
    """While entered, handles these signals: sets ``requested`` and calls ``on_stop``. Main thread only.

    A SIGHUP that is ignored, as under ``nohup``, stays ignored.
    """

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self.requested = False
        self._on_stop = on_stop
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
        self._before = {one: signal.signal(one, self._handle) for one in (*_ALWAYS, *hangup)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._on_stop()
