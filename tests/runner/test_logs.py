"""Logs are read a piece at a time."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cefr_batch.records import layout
from cefr_batch.runner import Session, logs
from cefr_batch.store.local import LocalStore

RUN = "tiny-b1-peft-v1"


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40), size=st.integers(1, 9))
def test_a_log_comes_in_pieces_that_fit_into_memory_and_is_whole(text: str, size: int, store: LocalStore) -> None:
    store.put(layout.run_key(RUN, layout.log_name(1)), text.encode())
    session = Session(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_PIECE_BYTES", size)
        pieces = list(session.log_pieces(RUN))
        assert "".join(pieces) == text == session.logs(RUN)
        assert all(len(piece.encode()) <= size + 3 for piece in pieces), "a character may begin in the piece before"
