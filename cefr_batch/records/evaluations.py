"""``evaluations/``: a complete run's model, or its base model, on examples that it was not made for.

One document for each model and set of examples, written once when it is computed, beside the run's manifest and not listed
in it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal

from pydantic import Field

from cefr_batch.files import json_bytes
from cefr_batch.records.document import Count, Part, Sha256, StoredRecord
from cefr_batch.records.level_figures import LevelFiguresByMode
from cefr_batch.records.losses import ExampleScore, Losses
from cefr_batch.records.texts import Answers
from cefr_batch.records.timestamps import Timestamp

EvaluatedModel = Literal["tuned", "base"]


class EvaluationTask(Part):
    """A model and a set of examples: the first ``examples`` of the evaluation set of ``dataset`` (its name in the
    store); the model also answers the first ``answered`` of these. ``label``: the set's level, or the name of its file.
    """

    model: EvaluatedModel
    label: str
    dataset: Sha256
    eval_sha256: Sha256
    examples: Count
    answered: Count

    @property
    def name(self) -> str:
        """The document's name: the same for what would have the same result."""
        what = [self.model, self.eval_sha256, self.examples, self.answered]
        label = re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")[:30]
        return f"{self.model}-on-{label or 'file'}-{hashlib.sha256(json_bytes(what)).hexdigest()[:12]}"


class EvaluationRequest(StoredRecord):
    """``evaluations/job/request.json``: what a run's jobs are to evaluate. A job leaves out what is already stored."""

    run: str
    tasks: list[EvaluationTask]


class AnsweredExample(Part):
    """What the model wrote for the words of one example, by its index in the set."""

    index: Count
    words: list[str]
    answers: Answers


class SetEvaluation(StoredRecord):
    """``evaluations/<name>.json``. ``scores``: what the losses are computed from, by example in the set's order;
    ``seen`` and ``unseen`` refer to the run's own training data. ``levels``: the estimated levels of the sentences, with
    the run's level as the target and the set's own sentences as references.
    """

    run: str
    task: EvaluationTask
    losses: Losses
    scores: list[ExampleScore]
    texts: list[AnsweredExample] = Field(default_factory=list)
    levels: LevelFiguresByMode | None = None
    seconds: float
    code_version: str
    complete_at: Timestamp
