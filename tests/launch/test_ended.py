"""A report's job waits by what the store says alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from cefr_batch import layout
from cefr_batch.errors import Unavailable
from cefr_batch.launch import ended
from cefr_batch.launch.ended import FAILED_SECONDS, wait_until_ended
from cefr_batch.store.local import LocalStore

RUN = "tiny-b1-peft-v1"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ended, "POLL_SECONDS", 0.01)


def put(store: LocalStore, name: str, record: dict[str, Any]) -> None:
    store.put_json(layout.run_key(RUN, name), record)


def ago(seconds: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(seconds=seconds)).isoformat()


def complete(store: LocalStore) -> None:
    put(store, layout.MANIFEST, {"objects": []})


def cancelled(store: LocalStore) -> None:
    record = {"cluster": "k8s", "handle": "k8s://c/n/x", "submitted_at": ago(9), "submitted_by": "me"}
    put(store, layout.SUBMISSION, {**record, "cancelled_at": ago(1)})


def failed(store: LocalStore) -> None:
    put(store, layout.STATUS, {"state": "FAILED", "updated_at": ago(FAILED_SECONDS + 1)})


@pytest.mark.parametrize("end", [complete, cancelled, failed])
def test_the_wait_is_over_when_the_run_has_ended(end: Callable[[LocalStore], None], store: LocalStore) -> None:
    put(store, layout.STATUS, {"state": "RUNNING", "updated_at": ago(1)})
    found: list[list[str]] = []
    waiter = threading.Thread(target=lambda: found.append(wait_until_ended(store, [RUN], 600)))
    waiter.start()
    waiter.join(0.1)
    assert waiter.is_alive(), "it waits for a run that goes on"
    end(store)
    waiter.join(30)
    assert found == [[]]


@pytest.mark.parametrize(
    "status",
    [
        {"state": "RUNNING", "updated_at": ago(10**6)},
        {"state": "PREEMPTED", "updated_at": ago(10**6)},
        {"state": "FAILED", "updated_at": ago(FAILED_SECONDS / 2)},  # it may be tried again
        {"state": "FAILED"},
        {"state": "FAILED", "updated_at": "soon"},
        [],
    ],
)
def test_what_may_still_go_on_is_waited_for_until_the_limit(status: Any, store: LocalStore) -> None:
    put(store, layout.STATUS, status)
    assert wait_until_ended(store, [RUN], 0.05) == [RUN]


def test_a_store_that_is_away_is_asked_again(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    exists = LocalStore.exists

    def away_twice(self: LocalStore, key: str) -> bool:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise Unavailable("away")
        return exists(self, key)

    monkeypatch.setattr(LocalStore, "exists", away_twice)
    complete(store)
    assert wait_until_ended(store, [RUN], 600) == []
    assert asked == 3


def test_a_report_says_which_run_it_did_not_wait_for_any_longer(
    cefr_batch: Callable[..., Any], store: LocalStore
) -> None:
    put(store, layout.SPEC, {"run": RUN, "spec": {"level": "B1"}})
    result = cefr_batch("report", RUN, "--wait", "1")
    assert result.code == 1, "there is nothing to report; Kubernetes tries again"
    assert f"warning: after 1 s {RUN} has not ended; the report is without its result" in result.err
