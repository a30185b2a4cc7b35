"""The notice comes only when something takes long, and never after it ended."""

from __future__ import annotations

from threading import Event

import pytest

from cefr_batch.cli import notice


def test_only_slow_work_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Event()
    monkeypatch.setattr("click.echo", lambda *args, **kwargs: said.set())
    with notice.notice_if_slow():
        pass
    assert not said.is_set()
    with notice.notice_if_slow(after_seconds=0.0):
        assert said.wait(10)
