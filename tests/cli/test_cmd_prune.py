"""prune: what each rule removes, and what none does."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.stand_in import status
from support.stored_runs import OBJECTS, add_complete, add_ended, add_submission, days_ago

from cefr_batch.records import layout
from cefr_batch.runner.prune import PruneRules, find_removals, remove
from cefr_batch.runner.selection import all_runs, find_runs
from cefr_batch.runner.status import run_states
from cefr_batch.schedulers.base import State
from cefr_batch.store.local import LocalStore

Command = Callable[..., Any]


def everything(store: LocalStore) -> dict[str, bytes]:
    return {stored.key: store.get(stored.key) for stored in store.objects("")}


@pytest.fixture
def filled(store: LocalStore) -> LocalStore:
    for number in (1, 2, 3):
        add_complete(store, f"tiny-b1-peft-v{number}", submitted_at=days_ago(10 - number))
    add_complete(store, "tiny-a1-peft-v1", submitted_at=days_ago(40))
    for number, (state, days) in enumerate([("FAILED", 40), ("FAILED", 2), ("CANCELLED", 40), ("PREEMPTED", 40)]):
        add_ended(store, f"tiny-c1-peft-v{number + 1}", state, days_ago(days))
    assert [state.state.value for state in run_states(store, all_runs(store))] == [
        *["SUCCEEDED"] * 4, "FAILED", "FAILED", "CANCELLED", "PREEMPTED",
    ]  # fmt: skip
    return store


@pytest.mark.parametrize(
    ("rules", "removed"),
    [
        (["--keep", "1"], ["tiny-b1-peft-v1", "tiny-b1-peft-v2"]),
        (["--keep", "2"], ["tiny-b1-peft-v1"]),
        (["--keep", "9"], []),
        (["--failed", "30"], ["tiny-c1-peft-v1", "tiny-c1-peft-v3"]),
        (["--failed", "0"], ["tiny-c1-peft-v1", "tiny-c1-peft-v2", "tiny-c1-peft-v3"]),
        (["--failed", "30", "--keep", "2"], ["tiny-b1-peft-v1", "tiny-c1-peft-v1", "tiny-c1-peft-v3"]),
    ],
)
def test_a_rule_removes_its_runs_whole_and_nothing_else(
    rules: list[str], removed: list[str], cefr_batch: Command, filled: LocalStore
) -> None:
    before, runs = everything(filled), all_runs(filled)
    dry = cefr_batch("prune", *rules, "--dry-run")
    assert dry.code == 0
    assert everything(filled) == before
    assert [run for run in runs if run in dry.out] == removed
    result = cefr_batch("prune", *rules, "--yes")
    assert (result.code, result.err) == (0, "")
    assert all_runs(filled) == [run for run in runs if run not in removed]
    kept = {key: data for key, data in before.items() if key.split("/")[1] not in removed}
    assert everything(filled) == kept
    assert "Nothing to remove" in cefr_batch("prune", *rules, "--yes").out


def test_keep_counts_from_when_runs_got_their_names_and_leaves_those_without_a_level(
    cefr_batch: Command, store: LocalStore
) -> None:
    resumed, newer, applied = "tiny-b1-peft-v1", "tiny-b1-peft-v2", "tiny-0a1b2c-b1-peft-v1"
    for run, days in ((resumed, 90), (newer, 60), (applied, 30), ("tiny-b1-peft-v3", 120)):
        add_complete(store, run, submitted_at=days_ago(days))
    for run, job in ((resumed, days_ago(1)), (applied, None)):  # resumed yesterday; of `render`, without a submission
        edit_manifest(store, run, submitted_at=job)
    store.delete(layout.run_key(applied, layout.SUBMISSION))
    for run in ("tiny-b1-s1-t1", "tiny-b1-s1-t2", "tiny-a1-s1-t1", "mine", "yours"):
        add_complete(store, run)
    store.put("runs/tiny-b1-peft-v3/spec.json", b"damaged")  # how old it is, nobody knows
    before = all_runs(store)
    assert cefr_batch("prune", "--keep", "2", "--yes").code == 0
    assert [run for run in before if run not in all_runs(store)] == [resumed]
    assert cefr_batch("prune", "--keep", "1", "--yes").code == 0
    assert [run for run in before if run not in all_runs(store)] == [resumed, newer]
    assert find_runs(store, levels=["B1"], complete=True) == [applied], "the same one is the newest for --level"


def edit_manifest(store: LocalStore, run: str, **summary: Any) -> None:
    key = layout.run_key(run, layout.MANIFEST)
    manifest = store.get_json(key)
    store.put_json(key, {**manifest, "summary": {**manifest["summary"], **summary}})


def test_checkpoints_go_from_complete_runs_alone_and_from_their_manifests(
    cefr_batch: Command, filled: LocalStore
) -> None:
    before = everything(filled)
    result = cefr_batch("prune", "--checkpoints", "--yes")
    assert result.code == 0
    gone = before.keys() - everything(filled).keys()
    checkpoints = [name for name in OBJECTS if name.startswith("checkpoints/")]
    complete = [run for run in all_runs(filled) if "-c1-" not in run]
    assert gone == {layout.run_key(run, name) for run in complete for name in checkpoints}
    for run in complete:
        assert cefr_batch("verify", run).code == 0
        assert cefr_batch("report", run).code in (0, 1)


def test_without_a_rule_or_without_a_terminal_nothing_happens(cefr_batch: Command, filled: LocalStore) -> None:
    before = everything(filled)
    result = cefr_batch("prune")
    assert result.code == 2
    assert "--checkpoints, --failed DAYS, --unstarted DAYS or --keep N" in result.err
    result = cefr_batch("prune", "--keep", "1")
    assert result.code == 2
    assert "--yes" in result.err
    assert everything(filled) == before


@pytest.mark.parametrize(("answer", "removed"), [("n\n", False), ("y\n", True)])
def test_on_a_terminal_it_asks(
    answer: str, removed: bool, cefr_batch: Command, filled: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(filled)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("click.confirm", lambda _: answer.startswith("y"))
    result = cefr_batch("prune", "--keep", "1")
    assert result.code == 0
    assert (everything(filled) != before) == removed
    assert ("Nothing was removed" in result.out) == (not removed)


def test_a_run_that_somebody_resumed_meanwhile_is_left_alone(
    cefr_batch: Command, filled: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = "tiny-c1-peft-v1"

    def resumed(_: str) -> bool:
        resume(filled, run, monkeypatch)
        return True

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("click.confirm", resumed)
    result = cefr_batch("prune", "--failed", "30")
    assert f"{run}: left alone: it is RUNNING now" in result.out
    assert run in all_runs(filled)
    assert "tiny-c1-peft-v3" not in all_runs(filled)


def resume(store: LocalStore, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process were the run's new job."""
    record = store.get_json(layout.run_key(run, layout.SUBMISSION))
    handle = f"local://{socket.gethostname()}/{os.getpid()}"
    monkeypatch.setattr("cefr_batch.schedulers.local.scheduler._process", lambda pid, _run: pid == os.getpid())
    store.put_json(layout.run_key(run, layout.SUBMISSION), {**record, "handle": handle})


def test_a_run_that_somebody_resumed_while_others_were_being_removed_is_left_alone(
    filled: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    removals = find_removals(filled, PruneRules(failed_days=30))
    assert [one.run for one in removals] == ["tiny-c1-peft-v1", "tiny-c1-peft-v3"]
    removed = remove(filled, removals)
    assert next(removed)[1] == ""
    resume(filled, "tiny-c1-peft-v3", monkeypatch)
    assert next(removed)[1] == "it is RUNNING now"
    assert "tiny-c1-peft-v1" not in all_runs(filled)
    assert "tiny-c1-peft-v3" in all_runs(filled)


def test_a_run_with_a_damaged_manifest_keeps_its_checkpoints_and_the_others_lose_theirs(
    cefr_batch: Command, filled: LocalStore
) -> None:
    damaged = layout.run_key("tiny-a1-peft-v1", layout.MANIFEST)  # the first of all
    filled.put(damaged, b"damaged")
    before = everything(filled)
    result = cefr_batch("prune", "--checkpoints", "--yes")
    assert (result.code, result.err) == (0, "")
    assert f"tiny-a1-peft-v1: left alone: {filled.locate(damaged)} is not valid JSON" in result.out
    gone = before.keys() - everything(filled).keys()
    assert {key.split("/")[1] for key in gone} == {f"tiny-b1-peft-v{number}" for number in (1, 2, 3)}


def test_a_run_that_is_being_stopped_is_to_be_waited_for(
    cefr_batch: Command, filled: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = "tiny-c1-peft-v1"
    (state,) = run_states(filled, [run])
    stopping = replace(state, state=State.RUNNING, settled=False, reason="asked to stop; it stores a checkpoint")
    assert stopping.stopping
    monkeypatch.setattr("cefr_batch.runner.prune.run_states", lambda *_: [stopping])
    refused = cefr_batch("prune", run)  # and not for the missing --yes
    assert refused.code == 2
    assert (
        f"{run} is RUNNING (asked to stop; it stores a checkpoint); wait until `cefr-batch status` shows" in refused.err
    )
    assert "cancel" not in refused.err


def test_a_run_without_a_record_of_its_age_is_not_old(cefr_batch: Command, store: LocalStore) -> None:
    store.put_json("runs/tiny-a1-peft-v1/spec.json", {"run": "tiny-a1-peft-v1"})
    add_submission(store, "tiny-a1-peft-v2", days_ago(1))
    before = everything(store)
    assert "Nothing to remove" in cefr_batch("prune", "--failed", "30", "--keep", "1", "--yes").out
    assert everything(store) == before


def test_runs_are_removed_by_name_and_no_other(cefr_batch: Command, filled: LocalStore) -> None:
    before, named = everything(filled), ("tiny-b1-peft-v3", "tiny-c1-peft-v4")  # complete, and preempted
    dry = cefr_batch("prune", *named, "--dry-run")
    assert dry.code == 0
    assert [line.split()[0] for line in dry.out.splitlines() if "named" in line] == list(named)
    assert everything(filled) == before
    result = cefr_batch("prune", *named, "--yes")
    assert (result.code, result.err) == (0, "")
    assert everything(filled) == {key: data for key, data in before.items() if key.split("/")[1] not in named}


def test_only_the_checkpoints_of_a_named_run(cefr_batch: Command, filled: LocalStore) -> None:
    before = everything(filled)
    assert cefr_batch("prune", "tiny-a1-peft-v1", "--checkpoints", "--yes").code == 0
    gone = before.keys() - everything(filled).keys()
    assert gone
    assert all(key.startswith("runs/tiny-a1-peft-v1/checkpoints/") for key in gone)
    refused = cefr_batch("prune", "tiny-c1-peft-v1", "--checkpoints", "--yes")
    assert refused.code == 2
    assert "is FAILED, and --checkpoints is for complete runs" in refused.err


def test_a_run_that_runs_or_may_run_is_not_removed(cefr_batch: Command, filled: LocalStore) -> None:
    add_submission(filled, "tiny-a2-peft-v1", days_ago(1))
    key = layout.run_key("tiny-a2-peft-v1", layout.SUBMISSION)
    filled.put_json(key, {**filled.get_json(key), "handle": "local://another-machine/1"})
    before = everything(filled)
    refused = cefr_batch("prune", "tiny-a2-peft-v1", "tiny-b1-peft-v3", "--yes")
    assert refused.code == 2
    assert "nothing was removed:\n  tiny-a2-peft-v1 is UNKNOWN (" in refused.err
    assert "--force removes it anyway" in refused.err
    assert everything(filled) == before
    assert cefr_batch("prune", "tiny-a2-peft-v1", "--force", "--yes").code == 0
    assert not any("tiny-a2" in key for key in everything(filled))


def test_names_and_rules_do_not_mix_and_a_name_must_exist(cefr_batch: Command, filled: LocalStore) -> None:
    before = everything(filled)
    for arguments in (["tiny-b1-peft-v3", "--keep", "1"], ["--keep", "1", "--force"], []):
        assert cefr_batch("prune", *arguments, "--yes").code == 2
    assert "Did you mean tiny-b1-peft-v3" in cefr_batch("prune", "tiny-b1-pefft-v3", "--yes").err
    assert "did you mean prune?" in cefr_batch("delete", "tiny-b1-peft-v3").err
    assert everything(filled) == before


def test_runs_that_were_never_started_go_by_a_rule_of_their_own_and_cancel_says_how(
    cefr_batch: Command, filled: LocalStore
) -> None:
    """As after `render --claim`, whose manifest nobody applied."""
    names = {"old": "tiny-b2-peft-v1", "new": "tiny-b2-peft-v2", "started": "tiny-b2-peft-v3"}
    for key, days in (("old", 40), ("new", 2), ("started", 40)):
        record = {"run": names[key], "dataset": "0" * 64, "spec": {}, "submitted_at": days_ago(days)}
        filled.put_json(layout.run_key(names[key], layout.SPEC), record)
    filled.put_json(layout.run_key(names["started"], layout.STATUS), status(names["started"], "RUNNING"))
    assert (
        "never started, so there is nothing to stop; cefr-batch prune tiny-b2-peft-v1"
        in cefr_batch("cancel", names["old"]).out
    )
    before = all_runs(filled)
    assert cefr_batch("prune", "--unstarted", "30", "--yes").code == 0
    assert [run for run in before if run not in all_runs(filled)] == [names["old"]]
    assert not list(filled.objects(layout.run_key(names["old"]) + "/"))
    assert cefr_batch("prune", names["new"], "--yes").code == 0
    assert names["new"] not in all_runs(filled)
    assert cefr_batch("prune", names["started"], "--unstarted", "0").code == 2
