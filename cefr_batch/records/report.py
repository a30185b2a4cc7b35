"""``report.json``, as far as it is read again: which runs a report shows, and from which objects its figures follow."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, JsonValue

from cefr_batch.records import layout
from cefr_batch.records.document import Part, StoredRecord
from cefr_batch.records.stages import StoredObject


def _run_name(name: str) -> str:
    if not layout.is_run_name(name):
        raise ValueError("must be the name of a run")
    return name


class ReportedRun(Part):
    """A run whose figures the report shows."""

    run: Annotated[str, AfterValidator(_run_name)]
    seed: JsonValue


class ReportedLevel(Part):
    """A level, or one of several groups of its runs, as the report shows it."""

    level: str
    newest_run: str | None
    state: str
    reason: str
    results: list[ReportedRun]


class ReportRecord(StoredRecord):
    """``report.json``. Schema 1, of version 0.1.0, names no objects. The keys in ``made_from`` are those of the store."""

    SCHEMA_VERSION: ClassVar[int] = 2

    made_by: str = ""  # the version of cefr-batch
    made_from: list[StoredObject] = Field(default_factory=list)
    store: str
    levels: list[ReportedLevel]
