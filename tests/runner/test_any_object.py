"""One object that is not what was written costs its own run's row, never the list: it may hold anything."""

from __future__ import annotations

import copy
import itertools
import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.stored_runs import add_complete, add_ended, days_ago

from cefr_batch.records import layout
from cefr_batch.records.timestamps import now
from cefr_batch.store.local import LocalStore

WHOLE, HARMED = "whole-a1-peft-v1", "harmed-b1-peft-v1"
RECORDS = [layout.SPEC, layout.SUBMISSION, layout.STATUS, layout.METRICS, layout.MANIFEST, layout.attempt_name(1)]
LONG = "a number of 4,400 digits"
HANDLES = (f"local://{socket.gethostname()}/", "local://elsewhere/", "slurm://c/", "k8s://c/n/j/", "k8s/", "../")
HOSTILE_TEXTS = [
    "",
    "\ud800",
    "\x1b[2J",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+23:59",
    *(f"{start}{'9' * digits}" for start in HANDLES for digits in (30, 5000)),
]
HOSTILE: list[Any] = [None, True, [], {}, -1, 10**30, 2**63, LONG, 1e308, -1e308, float("nan"), *HOSTILE_TEXTS]
TEXTS = st.text(st.characters(codec=None)) | st.sampled_from(HOSTILE_TEXTS)
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**30, 1e308, -1e308, LONG])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
DEEP = "[" * 100_000
REPEATED = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def shows_the_other(cefr_batch: Callable[..., Any], *words: str) -> str:
    """That the commands end well and show the run that is whole; what they show of the other one, as text."""
    for command in ("list", "status"):
        result = cefr_batch(command, *words)
        assert result.code == 0, result.err
        assert f"{WHOLE}  " in result.out
        assert HARMED in result.out
    found = {one["run"]: one for one in json.loads(cefr_batch("status", "--json").out)["runs"]}
    assert found[WHOLE]["state"] == "SUCCEEDED"
    return f"{found[HARMED]['state']}: {found[HARMED]['reason']}"


@pytest.fixture
def both(store: LocalStore) -> LocalStore:
    add_complete(store, WHOLE, submitted_at=days_ago(1))
    add_ended(store, HARMED, "FAILED", days_ago(1))
    return store


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDS)
@REPEATED
@given(value=VALUES)
@example(value=[])
@example(value=[[{"run": 1}]])
@example(value=DEEP)
def test_any_document_in_place_of_a_record(
    name: str, value: object, both: LocalStore, cefr_batch: Callable[..., Any]
) -> None:
    data = DEEP if value is DEEP else _json(value)
    both.put(layout.run_key(HARMED, name), data.encode())
    shows_the_other(cefr_batch)


def variants(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The record with each hostile value in place of each of its values, one at a time."""
    for part in (None, *(field for field, value in record.items() if isinstance(value, dict))):
        for field, value in itertools.product(record[part] if part else record, HOSTILE):
            changed = copy.deepcopy(record)
            (changed[part] if part else changed)[field] = value
            yield changed


def add_in_state(store: LocalStore, run: str, state: str) -> None:
    """``RUNNING``: on a machine of which no scheduler knows, so that its last words are shown."""
    if state == "SUCCEEDED":
        return add_complete(store, run, {})
    add_ended(store, run, state, now())
    key = layout.run_key(run, layout.SUBMISSION)
    return store.put_json(key, store.get_json(key) | {"handle": "local://elsewhere/7"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "state"),
    [
        (layout.SPEC, "FAILED"),
        (layout.SUBMISSION, "RUNNING"),
        (layout.STATUS, "RUNNING"),
        (layout.MANIFEST, "SUCCEEDED"),
    ],
)
def test_any_value_in_a_record(name: str, state: str, both: LocalStore, cefr_batch: Callable[..., Any]) -> None:
    """One run for each field and value; all are shown, whatever they say."""
    add_in_state(both, HARMED, state)
    whole = both.get_json(layout.run_key(HARMED, name))
    runs = []
    for number, record in enumerate(variants(whole)):
        runs.append(f"x{number}-c1-peft-v1")
        add_in_state(both, runs[-1], state)
        record = {key: runs[-1] if value == HARMED else value for key, value in record.items()}
        both.put(layout.run_key(runs[-1], name), _json(record).encode())
    shows_the_other(cefr_batch)
    assert {one["run"] for one in json.loads(cefr_batch("list", "--json").out)["runs"]} == {WHOLE, HARMED, *runs}


@pytest.mark.parametrize("name", [layout.SUBMISSION, layout.STATUS])
@pytest.mark.parametrize("data", [b"[]", b"{", b"\xff\xfe", DEEP.encode(), b'{"run": 7}', b'{"run": "\\ud800"}'])
def test_a_run_with_a_damaged_record_is_unknown_and_says_which(
    name: str, data: bytes, both: LocalStore, cefr_batch: Callable[..., Any]
) -> None:
    both.put(layout.run_key(HARMED, name), data)
    shown = shows_the_other(cefr_batch)
    assert shown.startswith("UNKNOWN: ")
    assert f"runs/{HARMED}/{name}" in shown


@pytest.mark.parametrize("data", [b"[]", b"{", DEEP.encode(), b'{"run": 7}'])
def test_a_complete_run_with_a_damaged_manifest_says_so(
    data: bytes, both: LocalStore, cefr_batch: Callable[..., Any]
) -> None:
    """Every stage has stored its results: the run has ended well, but nothing can be checked any more."""
    both.put(layout.run_key(HARMED, layout.MANIFEST), data)
    assert re.match(
        rf"SUCCEEDED: .*runs/{HARMED}/manifest.json (is not valid JSON|does not have)", shows_the_other(cefr_batch)
    )


def _json(value: object) -> str:
    return json.dumps(value).replace(json.dumps(LONG), "9" * 4400)
