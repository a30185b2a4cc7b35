"""Runs' logs, as their jobs store them while they run."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cefr_batch.errors import NotFound
from cefr_batch.records import layout
from cefr_batch.runner.clock import Clock
from cefr_batch.runner.status import RunState
from cefr_batch.store.base import Store

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class LogUpdate:
    """A run's state, and what its log has gained since the update before."""

    state: RunState
    attempt: int | None  # the newest attempt that has a log; None: no log yet
    text: str
    last: bool = True  # False: more of the same moment follows at once


def log_attempts(store: Store, run: str, folder: str = layout.LOGS) -> list[int]:
    """The attempts of which there is a log, oldest first. ``folder``: the run's logs, or those of its evaluations."""
    keys = (stored.key for stored in store.objects(layout.run_key(run, folder) + "/"))
    return sorted(number for key in keys if (number := layout.log_attempt(layout.object_name(run, key))))


def read_log(store: Store, run: str, attempt: int | None = None, folder: str = layout.LOGS) -> Iterator[str]:
    """The log of an attempt, by default the newest, a piece at a time; nothing if there is none yet. Raises ``NotFound``
    for an attempt that has none.
    """
    attempts = log_attempts(store, run, folder)
    if attempt and attempt not in attempts:
        raise NotFound(f"{run} has no log of attempt {attempt}; it has {', '.join(map(str, attempts)) or 'none yet'}")
    return _AttemptLog(store, run, attempt or attempts[-1], folder).read_new() if attempts else iter(())


def follow_log(
    store: Store,
    run: str,
    look: Callable[[], RunState],
    *,
    poll_seconds: float,
    clock: Clock,
    folder: str = layout.LOGS,
) -> Iterator[LogUpdate]:
    """The newest attempt's log from its beginning, then what comes, attempt by attempt, until the run ends.

    ``look`` gives the run's state. There is an update every ``poll_seconds``, even where the log has gained nothing.
    """
    log: _AttemptLog | None = None
    while True:
        state = look()  # before the log is read: what is written after the end is not missed
        attempts = log_attempts(store, run, folder)
        for number in [n for n in attempts if n >= log.attempt] if log else attempts[-1:]:
            log = log if log and log.attempt == number else _AttemptLog(store, run, number, folder)
            yield from (LogUpdate(state, number, text, last=False) for text in log.read_new())
        yield LogUpdate(state, log.attempt if log else None, "")
        if state.settled:
            return
        clock.sleep(poll_seconds)


class _AttemptLog:
    """An attempt's log, read piece by piece: a piece may end within a character."""

    def __init__(self, store: Store, run: str, attempt: int, folder: str) -> None:
        self.attempt = attempt
        self._store, self._key = store, layout.run_key(run, layout.log_name(attempt, folder))
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read_new(self) -> Iterator[str]:
        """What it has gained, in pieces that memory can hold."""
        while data := self._store.get(self._key, start=self._offset, stop=self._offset + _PIECE_BYTES):
            self._offset += len(data)
            yield self._decoder.decode(data)
            if len(data) < _PIECE_BYTES:
                return


def log_end(store: Store, run: str, attempt: int, size: int) -> str:
    """The last ``size`` bytes of an attempt's log, from the beginning of a line. Raises ``NotFound`` if it has none."""
    key = layout.run_key(run, layout.log_name(attempt))
    whole = next((one.size for one in store.objects(key) if one.key == key), 0)
    text = store.get(key, start=max(0, whole - size)).decode(errors="replace")
    return text if whole <= size else text.partition("\n")[2]
