"""Whatever an object holds, reading it as a document gives the document or one error that names it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cefr_batch.errors import Damaged, StoreError
from cefr_batch.records.attempt import Attempt
from cefr_batch.records.checkpoint import Checkpoint
from cefr_batch.records.control import OomEvents, StageError
from cefr_batch.records.document import StoredRecord, dump, parse
from cefr_batch.records.evaluations import EvaluationRequest, SetEvaluation
from cefr_batch.records.losses import EvaluationRecord
from cefr_batch.records.manifest import Manifest
from cefr_batch.records.metrics import Metrics
from cefr_batch.records.ratings import Form, Rated
from cefr_batch.records.report import ReportRecord
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.stages import DataResult, StageRecord, TrainResult
from cefr_batch.records.status import Progress, Status
from cefr_batch.records.submission import Submission
from cefr_batch.records.texts import GenerationRecord

DOCUMENTS: list[type[StoredRecord]] = [
    Attempt, Checkpoint, EvaluationRecord, EvaluationRequest, Form, GenerationRecord, Manifest, Metrics, OomEvents,
    Progress, Rated, ReportRecord, SetEvaluation, SpecRecord, StageError, StageRecord[DataResult],
    StageRecord[TrainResult], Status, Submission,
]  # fmt: skip
WHERE = "file:///store/runs/x/some.json"

ATTEMPT = {"attempt": 2, "host": "node", "pid": 7, "image": None, "started_at": "2026-01-01T00:00:00+00:00"}


def read(document: Any) -> Attempt:
    return parse(Attempt, json.dumps(document).encode(), WHERE)


def test_a_document_without_a_schema_is_of_version_0_1_0_and_read() -> None:
    assert read(ATTEMPT).attempt == 2


def test_what_is_written_has_its_schema_and_what_the_writer_set_and_reads_the_same() -> None:
    written = Attempt(attempt=1, host="node", pid=3, image=None, started_at="now")
    document = json.loads(dump(written))
    assert document == {"schema": 1, "attempt": 1, "host": "node", "pid": 3, "image": None, "started_at": "now"}
    assert read(document) == written


def test_a_newer_schema_is_named_with_the_newest_known_and_what_to_do() -> None:
    with pytest.raises(StoreError) as caught:
        read({"schema": 3, "anything": []})
    assert str(caught.value) == (
        f"{WHERE} has schema 3, and this version of cefr-batch knows schemas up to 1; upgrade cefr-batch to read it"
    )


@pytest.mark.parametrize("schema", [0, -1, 1.0, "1", True, None, [], {}])
def test_a_schema_that_is_no_number_is_refused(schema: Any) -> None:
    with pytest.raises(StoreError, match=r"some\.json does not have the expected content .schema: must be a whole"):
        read({**ATTEMPT, "schema": schema})


def test_unknown_keys_are_ignored_and_wrong_types_are_named() -> None:
    assert read({**ATTEMPT, "new_in_a_later_version": {"x": [1]}}).attempt == 2
    with pytest.raises(StoreError, match=r"some\.json does not .*attempt: must be a valid integer; pid: missing"):
        read({**{key: value for key, value in ATTEMPT.items() if key != "pid"}, "attempt": "2"})


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"null", b"3", b'"text"', b"\xff\xfe", b'"\\ud800"', b'{"x": NaN}', b'{"x": 1e999}',
        b"[" * 100_000, b'{"spec": ' * 5000 + b"1" + b"}" * 5000, b'{"attempt": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_damage_is_an_error_that_names_the_object(kind: type[StoredRecord], data: bytes) -> None:
    with pytest.raises(StoreError, match=WHERE):
        parse(kind, data, WHERE)


@pytest.mark.parametrize("twice", ['"attempt": 2, "attempt": 3', '"x": {"y": 1, "z": 2, "y": 1}'])
def test_a_key_that_stands_there_twice_is_refused(twice: str) -> None:
    """Readers differ in which of the two they take."""
    with pytest.raises(Damaged, match=r"the key '(attempt|y)' occurs more than once"):
        parse(Attempt, (json.dumps(ATTEMPT)[:-1] + f", {twice}}}").encode(), WHERE)


def test_a_message_does_not_repeat_megabytes_of_the_document() -> None:
    long = "k" * 10_000_000
    with pytest.raises(Damaged) as caught:
        parse(
            StageRecord[TrainResult], json.dumps({"stage": "train", "result": {"versions": {long: 1}}}).encode(), WHERE
        )
    assert len(str(caught.value)) < 2000
    with pytest.raises(Damaged) as caught:
        parse(Attempt, f'{{"{long}": 1, "{long}": 1}}'.encode(), WHERE)
    assert len(str(caught.value)) < 2000


VALUE = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
NESTED = VALUE | st.lists(VALUE, max_size=2) | st.dictionaries(st.text(max_size=3), VALUE, max_size=2)
KEYS = sorted({name for kind in DOCUMENTS for name in kind.model_fields} | {"schema", "evaluation.json"})


@given(document=st.dictionaries(st.sampled_from(KEYS), NESTED, max_size=8))
def test_keys_with_anything_in_them_are_read_or_refused(document: dict[str, Any]) -> None:
    for kind in DOCUMENTS:
        with suppress(StoreError):
            parse(kind, json.dumps(document).encode(), WHERE)


@given(data=st.binary(max_size=50))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(StoreError, match=WHERE):
        parse(Metrics, data, WHERE)
