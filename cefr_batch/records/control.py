"""``control/``: small files in a job's work folder, between the job and the processes of its stages. Never stored."""

from __future__ import annotations

from cefr_batch.records.document import StoredRecord
from cefr_batch.records.training import OomEvent


class StageError(StoredRecord):
    """``error.json``: why a stage's process ended. ``kind`` is the class of the error, or ``bug``."""

    kind: str
    message: str
    exit_code: int


class OomEvents(StoredRecord):
    """``oom_events.json``: the micro-batches that did not fit into the GPU's memory."""

    events: list[OomEvent]
