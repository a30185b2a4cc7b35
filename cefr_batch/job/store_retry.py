"""The store with patience: one that is away for a while must not cost what a job computed, nor end one that begins."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_chain, wait_fixed

from cefr_batch.errors import CredentialsError, LeaseLost, StoreError, StoreFull, Unavailable
from cefr_batch.i18n.units import short_duration

T = TypeVar("T")

log = logging.getLogger(__name__)

DEADLINE_SECONDS = 1800.0  # how long a job retries to fetch what it begins with, and to store its results,
STOPPING_SECONDS = 60.0  # and one that was asked to stop
_PAUSES = (1, 2, 5, 10, 20)


class StoreRetry:
    """Retries while the store is unavailable, until one deadline for all calls, counted from the first failure since a call
    succeeded.

    ``folder``: where the results are meanwhile; None before there can be any. ``stopping``: whether the job was asked to
    stop. ``next_step``: how the results are stored after all, if this gives up.
    """

    def __init__(
        self, folder: Path | None = None, stopping: Callable[[], bool] = lambda: False, next_step: str = ""
    ) -> None:
        self._folder, self._stopping, self._next_step = folder, stopping, next_step
        self._since: float | None = None

    def fetch(self, action: Callable[[], T]) -> T:
        """The result of ``action``, which brings something from the store. Blocks. Raises what it raises: at the deadline,
        or at once for a failure that waiting does not mend."""
        return self._retried(action, "")

    def __call__(self, action: Callable[[], T]) -> T:
        """The same for what stores results: ``StoreError`` says where everything is; ``LeaseLost`` comes as it is."""
        try:
            return self._retried(action, f"; until then, everything is in {self._folder}")
        except LeaseLost:
            raise
        except StoreError as exc:
            raise StoreError(f"{exc}; what this job computed is in {self._folder}; {self._next_step}") from exc

    def _retried(self, action: Callable[[], T], meanwhile: str) -> T:
        retrying = Retrying(
            retry=retry_if_exception_type(Unavailable),
            wait=wait_chain(*map(wait_fixed, _PAUSES)),
            stop=self._deadline_passed,
            before_sleep=partial(self._warn, meanwhile),
            reraise=True,
        )
        result = retrying(action)
        self._since = None
        return result

    def _deadline_passed(self, state: RetryCallState) -> bool:
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since > self._limit()

    def _limit(self) -> float:
        return STOPPING_SECONDS if self._stopping() else DEADLINE_SECONDS

    def _warn(self, meanwhile: str, state: RetryCallState) -> None:
        reason = state.outcome.exception() if state.outcome else None
        needs_somebody = isinstance(reason, (CredentialsError, StoreFull))
        action = "" if needs_somebody else "; no action is needed yet"
        limit = short_duration(self._limit())
        log.warning("cefr-batch: %s; the job retries for up to %s%s%s", reason, limit, action, meanwhile)
