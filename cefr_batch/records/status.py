"""``status.json``: how far a run's job is, rewritten every two seconds, and how it ended."""

from __future__ import annotations

from typing import Literal

from cefr_batch.records.document import Count, StoredRecord
from cefr_batch.records.timestamps import Timestamp


class Progress(StoredRecord):
    """How far a stage is; also ``control/progress.json``, through which a stage's process reports to the job. None:
    not known."""

    stage: str
    step: Count | None = None
    steps: Count | None = None
    epoch: float | None = None
    loss: float | None = None  # nats per token, of the last training step
    eval_loss: float | None = None  # nats per token, of the last evaluation
    eta_seconds: float | None = None  # until the last training step; None from then on


class Status(Progress):
    """What a job last said of itself. ``message`` says why it ended; empty while it runs. ``stopping``: it was asked to
    stop, and is storing what it has. ``paused``: training stopped after the step that ``pause.json`` asked for; the state is
    then PREEMPTED, as earlier versions know it."""

    run: str
    attempt: Count
    state: Literal["RUNNING", "PREEMPTED", "FAILED"]
    stages_done: list[str]
    updated_at: Timestamp
    host: str
    pid: int
    message: str
    stopping: bool = False
    paused: bool = False
