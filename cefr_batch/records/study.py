"""``studies/<study>/``: a search for settings. What was asked, each trial, and each choice among trials: written once each.

Everything else of a trial is its run's. So any machine can look at a study or go on with it, whatever was killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from cefr_batch.records.document import Count, Settings, Sha256, StoredRecord

Objective = Literal["response_loss", "loss", "level_rmse", "reference_gap"]
Sampler = Literal["tpe", "random"]


class StudyRecord(StoredRecord):
    """``study.json``: the request. ``settings``: those that all trials share; ``space``: those that are searched, as
    ``--set`` takes them. ``steps``: the rungs, that is, the steps of training after which trials are compared; the last
    one is the end of training. ``reduction``: 3 means that one in 3 trials continues at each rung, and that each rung
    has 3 times the steps of the one before. ``dataset``: what trials are trained on and compared on, both taken from the
    training set; ``evaluation_dataset``: the evaluation set, on which only the best trial is evaluated.
    """

    study: str
    level: str
    settings: Settings
    space: list[str]
    trials: Count
    steps: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    reduction: Annotated[int, Field(ge=2)]
    sampler: Sampler
    seed: Count
    objective: Objective
    dataset: Sha256
    evaluation_dataset: Sha256
    cluster: str
    code_version: str
    created_at: str

    @property
    def round_size(self) -> int:
        """How many trials are compared with each other from the first rung on."""
        return int(self.reduction ** (len(self.steps) - 1))

    def rounds(self) -> Iterator[range]:
        """The numbers of each round's trials, from 1; the last round may be smaller."""
        size = self.round_size
        return (range(first, min(first + size, self.trials + 1)) for first in range(1, self.trials + 1, size))


class TrialRecord(StoredRecord):
    """``trials/<n>.json``: the settings that were drawn for a trial, as ``--set`` takes them, and all of its settings."""

    trial: Count
    overrides: list[str]
    settings: Settings


class ChoiceRecord(StoredRecord):
    """``choices/round-<r>-rung-<k>.json``: what was known of a round's trials when all had reached a rung, and which of
    them continue. ``values``: of the objective, by trial; ``failed``: why other trials have no value; ``promoted``: the
    trials that continue, none at the last rung; ``importance``: at the first rung, how much each setting matters among
    all trials that have reached it so far, as shares of 1, largest first; empty if there are too few to tell.
    """

    round: Count
    rung: Count
    values: dict[str, float] = Field(default_factory=dict)
    failed: dict[str, str] = Field(default_factory=dict)
    promoted: list[Count] = Field(default_factory=list)
    importance: dict[str, float] = Field(default_factory=dict)
