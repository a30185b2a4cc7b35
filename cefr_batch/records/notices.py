"""``notices/<event>.json``: that people were told of an event of a run, so that nobody tells them again."""

from __future__ import annotations

from typing import Literal

from cefr_batch.records.document import Count, StoredRecord
from cefr_batch.records.timestamps import Timestamp


class Notice(StoredRecord):
    """A message about a run. It is written before the message is sent, as ``sending``: if the job is killed in between,
    the message may have been sent, and no other job sends it again. ``reason``: why not all of it was sent, without any
    address.
    """

    run: str
    event: Literal["completed", "failed", "preempted"]
    attempt: Count | None
    at: Timestamp
    outcome: Literal["sending", "sent", "not sent"]
    reason: str = ""
