"""What asks a job to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from cefr_batch.job.signals import StopSignals


@pytest.fixture(autouse=True)
def hangup() -> Iterator[None]:
    """The handler of SIGHUP is put back."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP])
def test_each_signal_asks_to_stop(number: signal.Signals) -> None:
    calls: list[bool] = []
    before = signal.getsignal(number)
    with StopSignals(lambda: calls.append(True)) as signals:
        os.kill(os.getpid(), number)
        assert signals.requested
    assert calls == [True]
    assert signal.getsignal(number) is before


def test_under_nohup_a_terminal_may_close() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals(lambda: None) as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not signals.requested
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
