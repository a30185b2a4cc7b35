"""Calls that must not hold up what waits for them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from threading import Thread
from typing import TypeVar

from cefr_batch.errors import SchedulerError

T = TypeVar("T")


def in_background(function: Callable[[], T]) -> futures.Future[T]:
    """The function's result, from a daemon thread: unlike a pool's, Ctrl-C need not wait for it."""
    answer: futures.Future[T] = futures.Future()

    def run() -> None:
        try:
            answer.set_result(function())
        except BaseException as exc:
            answer.set_exception(exc)

    Thread(target=run, daemon=True).start()
    return answer


def within(seconds: float, what: str, function: Callable[[], T]) -> T:
    """The function's result; ``SchedulerError`` if ``what`` (for the message) gives none in that time, and what it raises
    itself. A call that hangs is left behind in its thread."""
    try:
        return in_background(function).result(seconds)
    except futures.TimeoutError as exc:
        raise SchedulerError(f"{what} gave no answer in {seconds:g} s") from exc
