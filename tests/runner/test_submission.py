"""Names are never shared, records are honest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from support.stand_in import StandInLauncher, started, until

from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import RunSpec
from cefr_batch.errors import AlreadyExists, JobsMayRun, NotReady, SchedulerError, StoreError
from cefr_batch.records import layout
from cefr_batch.records.submission import Submission
from cefr_batch.runner import Session
from cefr_batch.runner.status import run_states
from cefr_batch.runner.submission import cancel, claim, next_runs, read_submission, start
from cefr_batch.schedulers import SCHEDULERS, Check, Job, JobGroup, JobSpec, State
from cefr_batch.schedulers.local.scheduler import LocalRequest, LocalScheduler
from cefr_batch.store import Store
from cefr_batch.store.local import LocalStore

DATASET = "0" * 64


def claim_one(store: Store, one: RunSpec | None = None) -> str:
    (run,) = claim(store, [(one or spec(), DATASET)])
    return run


def start_one(store: Store, scheduler: LocalScheduler, run: str) -> Submission:
    (submission,), _ = start(store, scheduler, JobGroup((JobSpec(run, store.url),)))
    return submission


def spec() -> RunSpec:
    return load_spec("B1", profile="smoke").with_backend("peft")


def test_two_submitters_never_share_a_name(store: LocalStore) -> None:
    code = f"""
from cefr_batch.runner.submission import claim
from cefr_batch.config.load import load_spec
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


class BlindStore(LocalStore):
    """Lists nothing, but refuses names that are there: two views that disagree."""

    def folders(self, prefix: str) -> list[str]:
        return []


def test_a_name_that_the_store_does_not_list_is_skipped(store: LocalStore) -> None:
    taken = [claim_one(store) for _ in range(3)]
    assert claim_one(BlindStore(store.root)) == f"{taken[-1].removesuffix('3')}4"


def test_a_store_that_refuses_every_name_ends_the_claim_after_some_attempts(store: LocalStore) -> None:
    class Refusing(LocalStore):
        def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
            raise AlreadyExists(key)

    pauses: list[float] = []
    with pytest.raises(
        StoreError,
        match=r"no free run name found in .* in 20 attempts: .*; check that reads and writes reach the same store",
    ):
        claim(Refusing(store.root), [(spec(), DATASET)], sleep=pauses.append)
    assert len(pauses) == 19


def test_an_interruption_while_names_are_being_claimed_leaves_none(store: LocalStore) -> None:
    class Interrupted(LocalStore):
        def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
            os.kill(os.getpid(), signal.SIGINT)  # which the main thread gets, while this one goes on
            time.sleep(0.1)
            super().put(key, data, if_absent=if_absent)

    with pytest.raises(KeyboardInterrupt):
        claim(Interrupted(store.root), [(spec(), DATASET)])
    assert list(store.objects("")) == []


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
    assert (
        state.reason
        == f"never started; apply what `render` printed, or start it with `cefr-batch resume {run} --cluster NAME`"
    )


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
        raise SchedulerError("no room")

    def cancel(self, jobs: Sequence[Job], store_url: str) -> None:
        raise SchedulerError("cannot be asked")


def test_a_start_that_fails_records_nothing(store: LocalStore) -> None:
    run = claim_one(store)
    with pytest.raises(SchedulerError, match="no room"):
        start_one(store, NowhereLauncher(), run)
    assert read_submission(store, run) is None


class NoRecords(LocalStore):
    """Takes everything but submissions."""

    failure: BaseException = StoreError("disk full")

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        if key.endswith(layout.SUBMISSION):
            raise self.failure
        super().put(key, data, if_absent=if_absent)


class Recording(StandInLauncher):
    """Remembers the jobs that it started."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def start(self, request: LocalRequest) -> str:
        handle = super().start(request)
        self.jobs.append(Job(request.command[2], handle))
        return handle


@pytest.mark.parametrize("failure", [StoreError("disk full"), KeyboardInterrupt()])
def test_jobs_that_cannot_be_recorded_are_stopped_and_their_runs_can_be_resumed(
    failure: BaseException, store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NoRecords, "failure", failure)
    monkeypatch.setitem(SCHEDULERS, "local", "support.stand_in:StandInLauncher")
    run, scheduler = claim_one(store), Recording()
    with pytest.raises(type(failure)):
        start_one(NoRecords(store.root), scheduler, run)
    until(lambda: scheduler.observe(scheduler.jobs)[scheduler.jobs[0]].state.finished, 60)
    session = Session(store)
    assert session.status([run])[0].state is not State.RUNNING
    session.resume([run], cluster="local")
    until(lambda: session.status([run])[0].state is State.RUNNING, 60)


class Elsewhere(StandInLauncher):
    """Another machine, as far as its name tells; it reaches no store ``unreachable``."""

    name = "k8s/elsewhere"

    def check(self, backends: Iterable[str], store_url: str) -> list[Check]:
        return [Check("store", "its pods cannot reach a folder of this machine" if "unreachable" in store_url else "")]


@pytest.mark.slow
def test_a_run_is_resumed_at_another_cluster_if_that_can_run_it(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCHEDULERS, "local", "support.stand_in:StandInLauncher")
    for name in ("unreachable", "reached"):
        store = LocalStore(tmp_path / name)
        run, session = claim_one(store), Session(store)
        start_one(store, StandInLauncher(), run)
        session.cancel([run])
        until(lambda session=session, run=run: session.status([run])[0].state is State.CANCELLED, 60)  # type: ignore[misc]
        before = read_submission(store, run)
        if name == "unreachable":
            with pytest.raises(NotReady, match="its pods cannot reach a folder"):
                session.resume([run], cluster=Elsewhere())
            assert read_submission(store, run) == before
        else:
            (submission,) = session.resume([run], cluster=Elsewhere())
            assert submission == read_submission(store, run)
            assert submission.cluster == "k8s/elsewhere"


class Unstoppable(Recording):
    def cancel(self, jobs: Sequence[Job], store_url: str) -> None:
        raise SchedulerError("the scheduler does not answer")


def test_jobs_that_can_neither_be_recorded_nor_stopped_are_named_and_keep_their_names(
    store: LocalStore, folder: Path
) -> None:
    run, scheduler = claim_one(store), Unstoppable()
    with pytest.raises(JobsMayRun) as raised:
        start_one(NoRecords(store.root), scheduler, run)
    for part in (run, scheduler.jobs[0].handle, "disk full", "the scheduler does not answer", "may still run"):
        assert part in str(raised.value)
    assert store.exists(layout.run_key(run, layout.SPEC))


class InterruptedStart(StandInLauncher):
    def submit(self, request: tuple[LocalRequest, ...]) -> list[str]:
        raise KeyboardInterrupt


def test_an_interruption_while_jobs_are_being_started_says_that_some_may_run(store: LocalStore) -> None:
    run = claim_one(store)
    with pytest.raises(JobsMayRun, match=rf"interrupted while {run} were being started \(--cluster local\)") as raised:
        start_one(store, InterruptedStart(), run)
    assert f"`cefr-batch resume {run} --cluster local` starts the runs again" in str(raised.value)
    assert store.exists(layout.run_key(run, layout.SPEC))
    with pytest.raises(NotReady, match="never submitted, so it is not known where to start it: add --cluster NAME"):
        Session(store).resume([run])


@pytest.mark.parametrize("scheduler", [InterruptedStart(), Unstoppable()], ids=["starting", "recording"])
@pytest.mark.parametrize(
    ("name", "before", "advice"),
    [
        (
            layout.SUBMISSION,
            None,
            "`cefr-batch resume {run} --cluster local` starts the runs again, and `cefr-batch prune",
        ),
        (layout.SUBMISSION, layout.attempt_name(1), "`cefr-batch resume {run} --cluster local` starts the runs again"),
        (layout.EVALUATION_SUBMISSION, None, "the same `cefr-batch evaluate {run} --on …` as before does the rest"),
    ],
    ids=["new", "resumed", "evaluated"],
)
def test_what_was_computed_is_never_advised_to_be_removed(
    name: str, before: str | None, advice: str, scheduler: LocalScheduler, store: LocalStore, folder: Path
) -> None:
    run = claim_one(store)
    if before:
        store.put(layout.run_key(run, before), b"{}")
    with pytest.raises(JobsMayRun) as raised:
        start(NoRecords(store.root), scheduler, JobGroup((JobSpec(run, store.url),)), name)
    assert advice.format(run=run) in str(raised.value)
    assert ("prune" in str(raised.value)) == ("prune" in advice)


def test_a_cancelled_run_keeps_the_time_of_the_first_request(store: LocalStore, folder: Path) -> None:
    run, scheduler = claim_one(store), StandInLauncher()
    cancel(store, [start_one(store, scheduler, run)], scheduler)
    first = read_submission(store, run)
    assert first
    assert first.cancelled_at
    cancel(store, [first], scheduler)
    assert read_submission(store, run) == first


def test_a_request_to_stop_that_cannot_be_made_is_not_recorded(store: LocalStore, folder: Path) -> None:
    run = claim_one(store)
    submission = start_one(store, StandInLauncher(), run)
    with pytest.raises(SchedulerError, match="cannot be asked"):
        cancel(store, [submission], NowhereLauncher())
    assert read_submission(store, run) == submission


def test_a_request_holds_no_secret(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed and logged has nothing of the submitter's environment, which the job inherits."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    scheduler = LocalScheduler()
    request = scheduler.render(JobGroup((JobSpec("run-a", store.url),)))
    assert "hf_secret" not in repr(request)
    assert "hf_secret" not in scheduler.describe(request)


def test_resume_by_force_frees_what_the_old_job_holds_before_it_starts_another(store: LocalStore) -> None:
    done: list[str] = []

    class Recorder(StandInLauncher):
        def release(self, jobs: Sequence[Job], store_url: str) -> None:
            done.extend(f"release {job.handle} of {store_url}" for job in jobs)

        def submit(self, request: tuple[LocalRequest, ...]) -> list[str]:
            done.append("submit")
            raise SchedulerError("this test starts nothing")

    run = claim_one(store)
    for cluster, handle in (("local", "local://elsewhere/1"), ("slurm", "slurm://gone/7")):
        record = Submission(
            run=run, cluster=cluster, handle=handle, submitted_at="2026-11-22T18:00:00+00:00", submitted_by="me",
            cancelled_at=None, attempts_before=0,
        )  # fmt: skip
        store.put_record(layout.run_key(run, layout.SUBMISSION), record)
        with pytest.raises(NotReady):
            Session(store).resume([run], cluster=Recorder())
        with pytest.raises(SchedulerError, match="starts nothing"):
            Session(store).resume([run], cluster=Recorder(), force=True)
    assert done == [f"release local://elsewhere/1 of {store.url}", "submit", "submit"], (
        "of the cluster where it starts alone"
    )


class WithReport(StandInLauncher):
    """Gives a handle for each job and, as SLURM and Kubernetes do, one more for the report's job. It starts nothing."""

    handles = ("local://elsewhere/1", "local://elsewhere/2", "local://elsewhere/3")

    def submit(self, request: tuple[LocalRequest, ...]) -> list[str]:
        return list(self.handles[: len(request) + 1])


def test_runs_that_get_a_report_together_know_its_address_and_a_single_one_does_not(store: LocalStore) -> None:
    first, second, alone = claim_one(store), claim_one(store), claim_one(store)
    jobs = [JobSpec(run, store.url) for run in (first, second, alone)]
    together, reported = start(store, WithReport(), JobGroup(tuple(jobs[:2]), "file:///store/reports/x"))
    single, not_reported = start(store, StandInLauncher(), JobGroup((jobs[2],)))
    assert (reported, not_reported) == (True, False)
    assert [one.report for one in together] == ["file:///store/reports/x"] * 2
    assert [one.report for one in single] == [None]
    cancel(store, single, StandInLauncher())
