"""Whatever the objects of one run are, the others are reported, and what is not as its run's manifest lists it is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.rating_stores import add_generated
from support.released import COMPLETE, released_documents
from support.report_stores import seal

from cefr_batch.cli.main import main
from cefr_batch.errors import RatingError
from cefr_batch.human_eval.generated import read_generated
from cefr_batch.records import layout
from cefr_batch.report.collect import collect
from cefr_batch.report.write import FORMATS, render
from cefr_batch.store.local import LocalStore

GOOD, BAD = COMPLETE
READ = (layout.SPEC, layout.METRICS, layout.EVALUATION, layout.GENERATION, "attempts/1.json")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return released_documents(tmp_path / "store")


def left_out(store: LocalStore) -> str:
    """Why the bad run has no figures; the good one has, in every format."""
    report = collect(store)
    shown = {result.run for entry in report.entries for result in entry.results}
    assert GOOD in shown
    assert BAD not in shown
    for kind in FORMATS:
        assert GOOD.encode() in render(report, kind, "tr" if kind == "md" else "en")
    (reason,) = (run.reason for entry in report.entries for run in entry.passed if run.run == BAD)
    return reason


@pytest.mark.parametrize("name", READ)
def test_an_edited_object_is_named_and_its_run_left_out(store: LocalStore, name: str) -> None:
    """Also where it would still be read: a loss is edited, no more."""
    key = layout.run_key(BAD, name)
    document = store.get_json(key)
    if name == layout.METRICS:
        document["tuned"]["full"]["loss"] = 0.01
    store.put_json(key, {**document, "edited": True})
    reason = left_out(store)
    assert reason.startswith(f"{name} of {BAD} cannot be read, so the run is left out of the report")
    assert "is not the object that the run's manifest names" in reason


@pytest.mark.parametrize("name", READ)
def test_a_missing_object_is_named_and_its_run_left_out(store: LocalStore, name: str) -> None:
    store.delete(layout.run_key(BAD, name))
    assert left_out(store).startswith(f"{name} of {BAD} is missing")


ANYTHING = {
    "nested": b"[" * 100_000, "nested objects": b'{"a":' * 100_000, "a list": b"[]", "empty": b"", "a number": b"3",
    "no text": b"\xff\xfe\x00", "a surrogate": b'{"run": "\\ud800"}', "a number as a key": b'{1: "x"}',
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("data", ANYTHING.values(), ids=ANYTHING)
@pytest.mark.parametrize("name", [*READ, layout.MANIFEST])
def test_any_bytes_in_one_run_leave_the_others_in_the_report(store: LocalStore, name: str, data: bytes) -> None:
    """They are what the manifest lists, so that only reading them tells."""
    store.put(layout.run_key(BAD, name), data)
    if name != layout.MANIFEST:
        seal(store, BAD, name)
    assert f"{name} of {BAD} cannot be read" in left_out(store)


VALUES: list[Any] = [1e308, -1e308, "text", None, 10**400, -5, 0, [], {}]


@pytest.mark.parametrize("value", VALUES, ids=[str(value)[:8] for value in VALUES])
@pytest.mark.parametrize("place", [("tuned", "full", "loss"), ("log", 0, "loss"), ("train", "duration_seconds")])
def test_any_value_of_a_figure_leaves_the_others_in_the_report(
    store: LocalStore, place: tuple[Any, ...], value: Any
) -> None:
    key = layout.run_key(BAD, layout.METRICS)
    document = store.get_json(key)
    part = document
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    store.put(key, json.dumps(document).encode())
    seal(store, BAD, layout.METRICS)
    report = collect(store)
    for kind in FORMATS:
        assert GOOD.encode() in render(report, kind, "tr" if kind == "md" else "en")


def test_sentences_to_rate_are_those_that_the_run_stored(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for run in COMPLETE:
        add_generated(store, run)
        seal(store, run, layout.GENERATION, layout.SPEC)
    assert [one.run for one in read_generated(store, COMPLETE)] == list(COMPLETE)
    key = layout.run_key(BAD, layout.GENERATION)
    store.put(key, store.get(key).replace(b"like", b"love", 1))
    with pytest.raises(RatingError, match=f"{BAD}: .* is not the object that the run's manifest names"):
        read_generated(store, COMPLETE)


def test_generate_reads_the_settings_that_the_run_stored(
    tmp_path: Path, store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    key = layout.run_key(BAD, layout.SPEC)
    store.put(key, store.get(key).replace(b'"B1"', b'"C1"'))
    assert main(["generate", BAD, "--words", "travel", "--store", str(tmp_path / "store")]) == 1
    assert f"{store.locate(key)} is not the object that the run's manifest names" in capsys.readouterr().err
