"""``pause.json``: after which step training is to stop; ``rungs/step-<n>.json``: what the model was worth there."""

from __future__ import annotations

from cefr_batch.records.document import Count, StoredRecord
from cefr_batch.records.level_figures import LevelFiguresByMode
from cefr_batch.records.losses import Losses


class Pause(StoredRecord):
    """Asks a run's job to stop after a step of training, with a checkpoint, and to evaluate the model there. ``levels``:
    whether to estimate the levels of what it writes, too. The settings are those of the whole run, including its
    learning-rate schedule.
    """

    after_step: Count
    levels: bool = False


class RungRecord(StoredRecord):
    """What training had reached when it stopped after ``step``: the losses with the adapter of ``best_step``, the best
    one evaluated so far, which would be the run's adapter if training ended here.
    """

    step: Count
    best_step: Count
    losses: Losses
    levels: LevelFiguresByMode | None = None
    seconds: float
