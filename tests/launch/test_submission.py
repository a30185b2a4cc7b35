"""Names are never shared, records are honest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from stand_in import StandInLauncher, started, until

from cefr_batch import layout
from cefr_batch.errors import LaunchError, StoreError
from cefr_batch.launch import Batch, Job, JobOrder, State
from cefr_batch.launch.local import LocalLauncher, LocalRequest
from cefr_batch.launch.state import run_states
from cefr_batch.launch.submission import Submission, cancel, claim, next_runs, read_submission, start
from cefr_batch.levels import RunSpec
from cefr_batch.spec import load_spec
from cefr_batch.store import Store
from cefr_batch.store.local import LocalStore

DATASET = "0" * 64


def claim_one(store: Store, one: RunSpec | None = None) -> str:
    (run,) = claim(store, [(one or spec(), DATASET)])
    return run


def start_one(store: Store, launcher: LocalLauncher, run: str) -> Submission:
    (submission,) = start(store, launcher, Batch((JobOrder(run, store.url),)))
    return submission


def spec() -> RunSpec:
    return load_spec("B1", profile="smoke").with_backend("peft")


def test_two_submitters_never_share_a_name(store: LocalStore) -> None:
    code = f"""
from cefr_batch.launch.submission import claim
from cefr_batch.spec import load_spec
from cefr_batch.store import open_store
spec = load_spec("B1", profile="smoke").with_backend("peft")
input()
for _ in range(20):
    print(*claim(open_store({store.url!r}), [(spec, "0" * 64)] * 2))
"""
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    names = [name for process in both for name in process.communicate(timeout=60)[0].split()]
    assert sorted(names, key=layout.run_version) == [f"smollm2-b1-peft-v{n}" for n in range(1, 81)]


def test_a_name_counts_on_from_the_newest_even_after_a_gap(store: LocalStore) -> None:
    for version in (1, 2, 10):
        store.put_json(layout.run_key(f"smollm2-b1-peft-v{version}", layout.SPEC), {})
    store.put_json(layout.run_key("smollm2-b1-unsloth-v30", layout.SPEC), {})
    assert next_runs(store, [spec()])[0] == "smollm2-b1-peft-v11"
    assert claim_one(store) == "smollm2-b1-peft-v11"


def test_the_claim_records_the_spec_and_the_dataset(store: LocalStore) -> None:
    run = claim_one(store)
    record = store.get_json(layout.run_key(run, layout.SPEC))
    assert (record["run"], record["dataset"]) == (run, DATASET)
    assert RunSpec.model_validate(record["spec"]) == spec()
    assert record["code_version"]
    assert record["submitted_at"].endswith("+00:00")


def test_a_submitter_that_died_between_claim_and_start_leaves_a_run_that_was_never_started(store: LocalStore) -> None:
    run = claim_one(store)
    (state,) = run_states(store, [run])
    assert state.state is State.UNKNOWN
    assert state.reason == f"never started; `cefr-batch resume {run}` starts it"


def test_start_records_the_handle_of_the_process_that_it_started(store: LocalStore, folder: Path) -> None:
    run = claim_one(store)
    submission = start_one(store, StandInLauncher(), run)
    assert read_submission(store, run) == submission
    assert submission.cluster == "local"
    assert submission.cancelled_at is None
    until(lambda: store.exists(layout.run_key(run, layout.STATUS)))
    assert started(folder) == [run]
    assert store.get_json(layout.run_key(run, layout.STATUS))["pid"] == int(submission.handle.rpartition("/")[2])


class NowhereLauncher(StandInLauncher):
    def submit(self, request: tuple[LocalRequest, ...]) -> list[str]:
        raise LaunchError("no room")

    def cancel(self, jobs: Sequence[Job]) -> None:
        raise LaunchError("cannot be asked")


def test_a_start_that_fails_records_nothing(store: LocalStore) -> None:
    run = claim_one(store)
    with pytest.raises(LaunchError, match="no room"):
        start_one(store, NowhereLauncher(), run)
    assert read_submission(store, run) is None


class FullStore(LocalStore):
    """Takes everything but submissions."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        if key.endswith(layout.SUBMISSION):
            raise StoreError("disk full")
        super().put(key, data, if_absent=if_absent)


def test_a_job_whose_submission_cannot_be_recorded_does_not_run_on(store: LocalStore, folder: Path) -> None:
    launcher, handles = StandInLauncher(), []

    class Recording(StandInLauncher):
        def start(self, request: LocalRequest) -> str:
            handles.append(super().start(request))
            return handles[-1]

    run = claim_one(store)
    with pytest.raises(StoreError, match="disk full"):
        start_one(FullStore(store.root), Recording(), run)
    job = Job(run, handles[0])
    until(lambda: launcher.observe([job])[job].state.finished)


def test_a_cancelled_run_keeps_the_time_of_the_first_request(store: LocalStore, folder: Path) -> None:
    run, launcher = claim_one(store), StandInLauncher()
    cancel(store, [start_one(store, launcher, run)], launcher)
    first = read_submission(store, run)
    assert first
    assert first.cancelled_at
    cancel(store, [first], launcher)
    assert read_submission(store, run) == first


def test_a_request_to_stop_that_cannot_be_made_is_not_recorded(store: LocalStore, folder: Path) -> None:
    run = claim_one(store)
    submission = start_one(store, StandInLauncher(), run)
    with pytest.raises(LaunchError, match="cannot be asked"):
        cancel(store, [submission], NowhereLauncher())
    assert read_submission(store, run) == submission


def test_a_request_holds_no_secret(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed and logged has nothing of the submitter's environment, which the job inherits."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    launcher = LocalLauncher()
    request = launcher.render(Batch((JobOrder("run-a", store.url),)))
    assert "hf_secret" not in repr(request)
    assert "hf_secret" not in launcher.describe(request)
