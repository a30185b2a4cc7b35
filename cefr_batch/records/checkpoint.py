"""``checkpoint.json``: the last file of a checkpoint, without which the checkpoint does not count."""

from __future__ import annotations

from pydantic import Field

from cefr_batch.records.document import Count, Part, Sha256, StoredRecord
from cefr_batch.records.training import OomEvent


class CheckpointFile(Part):
    """A file of a checkpoint, by its name in the checkpoint's folder."""

    name: str
    size: Count  # bytes
    sha256: Sha256


class Checkpoint(StoredRecord):
    """A complete checkpoint. ``elapsed_seconds``: how long training took up to it."""

    step: Count
    best_step: Count | None  # the step of the lowest evaluation loss so far; None before the first evaluation
    elapsed_seconds: float
    out_of_memory: list[OomEvent] = Field(default_factory=list)
    files: list[CheckpointFile]
