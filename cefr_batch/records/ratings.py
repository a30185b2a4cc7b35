"""``ratings/<form>/``: what people are asked to rate, whose sentences these are, and what each rater said."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cefr_batch.records.document import Part, StoredRecord

MARKS = (1, 2, 3, 4, 5)  # worst to best

RatedLevel = Literal["A1", "A2", "B1", "B2", "C1", "C2"]
Qualification = Literal["examiner", "teacher", "student", "speaker"]


class Source(Part):
    """Whose sentence it is: the ``position``-th word (from 1) of the run's generated answer ``answer`` (from 0)."""

    run: str
    model: str  # baseline or tuned
    answer: int
    position: int


class FormItem(Part):
    """A sentence to rate. It has several sources if several models, or runs of a level, wrote the same sentence."""

    id: str
    level: str
    word: str
    sentence: str
    sources: tuple[Source, ...]


class Form(StoredRecord):
    """``key.json``: the key that says whose sentences the form shows. The items are in the order of the form."""

    id: str
    seed: int
    items: tuple[FormItem, ...]


class Rated(StoredRecord):
    """``raters/<hash>.json``: one rater's work. ``ratings``: item → criterion → mark, without those that the rater left
    out. ``levels``: item → the level that the rater gave it without knowing the target level, without those left out.
    ``qualification``: the rater's, if given. 0.1.0 had neither ``levels`` nor ``qualification``.
    """

    form: str
    rater: str
    ratings: dict[str, dict[str, Annotated[int, Field(ge=MARKS[0], le=MARKS[-1])]]]
    levels: dict[str, RatedLevel] = Field(default_factory=dict)
    qualification: Qualification | None = None
