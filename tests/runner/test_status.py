"""A run's state, over every combination of what the store and the scheduler say."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from support.report_stores import B1, metrics
from support.says_scheduler import SaysLauncher
from support.stand_in import StandInLauncher, status, until

from cefr_batch.records import layout
from cefr_batch.records.document import StoredRecord
from cefr_batch.records.manifest import Manifest, RunSummary
from cefr_batch.records.metrics import Metrics
from cefr_batch.records.submission import Submission
from cefr_batch.records.timestamps import now
from cefr_batch.runner.status import run_states
from cefr_batch.schedulers import SCHEDULERS, Job, JobGroup, JobSpec, Observation, State
from cefr_batch.store.local import LocalStore

P, R, X, PAUSED, OK, F, C, U = (
    State.PENDING,
    State.RUNNING,
    State.PREEMPTED,
    State.PAUSED,
    State.SUCCEEDED,
    State.FAILED,
    State.CANCELLED,
    State.UNKNOWN,
)
RUN = "tiny-b1-peft-v1"


@pytest.fixture(autouse=True)
def says(monkeypatch: pytest.MonkeyPatch) -> type[SaysLauncher]:
    monkeypatch.setitem(SCHEDULERS, "says", "support.says_scheduler:SaysLauncher")
    monkeypatch.setattr(SaysLauncher, "asked", 0)
    return SaysLauncher


def ago(seconds: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(seconds=seconds)).isoformat(timespec="seconds")


SUBMISSIONS = ("none", "there", "cancelled", "damaged")
STATUSES = ("none", "fresh", "silent", "preempted", "paused", "failed", "older", "damaged")


def submission_of(case: str) -> object:
    """A submission of 1000 seconds ago."""
    if case in ("none", "damaged"):
        return None if case == "none" else b"{"
    return submitted(cancelled_at=ago(500) if case == "cancelled" else None)


def submitted(
    run: str = RUN, cluster: str = "says", handle: str = "says://1", cancelled_at: str | None = None
) -> Submission:
    return Submission(
        run=run,
        cluster=cluster,
        handle=handle,
        submitted_at=ago(1000),
        submitted_by="me",
        cancelled_at=cancelled_at,
    )


def status_of(case: str) -> object:
    said = {
        "fresh": ("RUNNING", 0, ""),
        "silent": ("RUNNING", 300, ""),
        "preempted": ("PREEMPTED", 300, ""),
        "paused": ("PREEMPTED", 300, ""),
        "failed": ("FAILED", 300, "the loss is not finite"),
        "older": ("FAILED", 2000, "an older failure"),
    }
    if case in said:
        state, seconds, message = said[case]
        return {**status(RUN, state, updated_at=ago(seconds), message=message), "paused": case == "paused"}
    return None if case == "none" else b'{"state": "RUN'


# No scheduler says PAUSED: that is the job's own word.
ANSWERS: dict[str, Observation | None] = {
    state.value: Observation(state, "as the scheduler says") for state in State if state is not State.PAUSED
}
ANSWERS |= {"unreachable": None, "not_found": Observation(State.UNKNOWN, "as the scheduler says", not_found=True)}

ALIVE, ENDED = "PENDING RUNNING", "SUCCEEDED FAILED PREEMPTED CANCELLED"
UNSEEN = "UNKNOWN unreachable"
ANY = ""
# (manifest, submission, status, the scheduler's word) -> state, a part of the reason. The first row that fits counts.
TABLE = [
    ("yes", ANY, ANY, ANY, OK, ""),
    ("no", "damaged", ANY, ANY, U, "submission.json is not valid JSON"),
    ("no", ANY, "damaged", ANY, U, "status.json is not valid JSON"),
    # Paused, as its search asked: that counts once its job is not known to live, unless the run was cancelled since.
    ("no", "none", "paused", ANY, PAUSED, "at step 3 of 12, as its search asked; start its job again where it ran"),
    ("no", "there", "paused", f"{ENDED} {UNSEEN} not_found", PAUSED, "at step 3 of 12, as its search asked"),
    # No submission: nobody can be asked, so the job's own word counts.
    (
        "no",
        "none",
        "none",
        ANY,
        U,
        f"never started; apply what `render` printed, or start it with `cefr-batch resume {RUN} --cluster",
    ),
    ("no", "none", "fresh", ANY, R, "on "),
    ("no", "none", "silent", ANY, U, "its last heartbeat"),
    ("no", "none", "preempted", ANY, X, "start its job again where it ran"),
    ("no", "none", "failed", ANY, F, "the loss is not finite"),
    ("no", "none", "older", ANY, F, "an older failure"),
    # The scheduler cannot tell: likewise.
    ("no", "cancelled", "none older", UNSEEN, C, "before it started"),
    ("no", ANY, "none older", UNSEEN, U, ""),
    ("no", ANY, "fresh", UNSEEN, R, "on "),
    ("no", ANY, "silent", UNSEEN, U, "minutes old at stage train, step 3 of 12"),
    ("no", "there", "preempted", UNSEEN, X, "step 3 of 12"),
    ("no", "there", "failed", UNSEEN, F, "the loss is not finite"),
    ("no", "cancelled", "preempted paused failed", UNSEEN, C, "step 3 of 12"),
    # It has no such job: then only a fresh sign of life says that there is one.
    ("no", "there", "fresh", "not_found", R, "on "),
    ("no", "cancelled", "fresh", "not_found", R, "on "),
    ("no", "cancelled", "none older", "not_found", C, "before it started"),
    ("no", "cancelled", ANY, "not_found", C, f"step 3 of 12; `cefr-batch resume {RUN}` resumes it"),
    ("no", "there", "preempted", "not_found", X, f"step 3 of 12; `cefr-batch resume {RUN}` resumes it"),
    ("no", "there", "failed", "not_found", F, "the loss is not finite"),
    ("no", "there", "none older", "not_found", F, f"as the scheduler says; `cefr-batch resume {RUN}` starts it"),
    ("no", "there", "silent", "not_found", F, "as the scheduler says at stage train, step 3 of 12; `cefr-batch resume"),
    # Stopped on request, and the scheduler says on whose: somebody cancelled the job behind our back.
    ("no", "there", "preempted", "CANCELLED", C, "as the scheduler says"),
    # Alive: never finished, whatever was written before.
    ("no", "cancelled", ANY, "PENDING", P, "asked to stop"),
    ("no", "cancelled", "none older", "RUNNING", P, "asked to stop before it began"),
    ("no", "cancelled", ANY, "RUNNING", R, "asked to stop; it stores a checkpoint after the step that it is computing"),
    ("no", "there", "none older", ALIVE, P, "as the scheduler says"),
    ("no", "there", ANY, "PENDING", P, "as the scheduler says"),
    ("no", "there", ANY, "RUNNING", R, "as the scheduler says"),
    # Gone.
    ("no", "cancelled", "none older", ENDED, C, f"before it started; `cefr-batch resume {RUN}` starts it"),
    ("no", "cancelled", ANY, ENDED, C, f"step 3 of 12; `cefr-batch resume {RUN}` resumes it"),
    ("no", "there", "preempted", ENDED, X, f"step 3 of 12; `cefr-batch resume {RUN}` resumes it"),
    ("no", "there", "failed", ENDED, F, "the loss is not finite"),
    ("no", "there", "none older", "CANCELLED", C, f"`cefr-batch resume {RUN}` starts it"),
    ("no", "there", "none older", "PREEMPTED", X, f"`cefr-batch resume {RUN}` starts it"),
    ("no", "there", "none older", "SUCCEEDED FAILED", F, f"`cefr-batch resume {RUN}` starts it"),
    ("no", "there", "fresh silent", "CANCELLED", C, "step 3 of 12"),
    ("no", "there", "fresh silent", "PREEMPTED", X, "step 3 of 12"),
    ("no", "there", "fresh silent", "SUCCEEDED FAILED", F, f"step 3 of 12; `cefr-batch resume {RUN}` resumes it"),
]


def row_of(*case: str) -> int:
    for number, row in enumerate(TABLE):
        if all(not allowed or given in allowed.split() for given, allowed in zip(case, row[:4], strict=True)):
            return number
    raise AssertionError(f"no row for {case}")


CASES = list(itertools.product(("yes", "no"), SUBMISSIONS, STATUSES, ANSWERS))


def write(store: LocalStore, name: str, value: object) -> None:
    key = layout.run_key(RUN, name)
    if isinstance(value, bytes):
        store.put(key, value)
    elif isinstance(value, StoredRecord):
        store.put_record(key, value)
    elif value is not None:
        store.put_json(key, value)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_every_combination(case: tuple[str, str, str, str], store: LocalStore, says: type[SaysLauncher]) -> None:
    manifest, submission, said, answer = case
    write(store, layout.SPEC, {"run": RUN, "dataset": "0" * 64, "spec": {}, "submitted_at": ago(1000)})
    write(store, layout.SUBMISSION, submission_of(submission))
    write(store, layout.STATUS, status_of(said))
    write(store, layout.MANIFEST, {"objects": []} if manifest == "yes" else None)
    says.answer = ANSWERS[answer]
    (state,) = run_states(store, [RUN])
    expected = TABLE[row_of(*case)]
    assert state.state is expected[4], state
    assert str(expected[5]) in state.reason


def test_every_row_of_the_table_is_reached() -> None:
    assert {row_of(*case) for case in CASES} == set(range(len(TABLE)))
    assert len(CASES) == 2 * 4 * 8 * 9


@pytest.mark.parametrize(("said", "setting"), [("preempted", "requeues"), ("failed", "retries")])
def test_a_job_that_may_start_again_has_not_ended_because_nobody_can_be_asked(
    said: str, setting: str, store: LocalStore, says: type[SaysLauncher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(says, setting, True)
    write(store, layout.SUBMISSION, submission_of("there"))
    write(store, layout.STATUS, status_of(said))
    for says.answer, expected in (
        (None, State.UNKNOWN),
        (Observation(State.UNKNOWN, "", not_found=True), State.FAILED if said == "failed" else State.PREEMPTED),
    ):
        (state,) = run_states(store, [RUN])
        assert state.state is expected
        assert ("may have been restarted" in state.reason) == (expected is State.UNKNOWN)


def test_a_running_job_shows_how_far_it_is(store: LocalStore, says: type[SaysLauncher]) -> None:
    write(store, layout.SUBMISSION, submission_of("there"))
    write(store, layout.STATUS, status_of("fresh"))
    says.answer = Observation(State.RUNNING)
    (state,) = run_states(store, [RUN])
    assert (state.level, state.stage, state.step, state.steps, state.loss) == ("B1", "train", 3, 12, 1.25)
    assert (state.eta_seconds, state.attempt, state.handle) == (65.0, 1, "says://1")
    assert state.submitted_at


def test_what_an_older_job_wrote_does_not_show(store: LocalStore, says: type[SaysLauncher]) -> None:
    write(store, layout.SUBMISSION, submission_of("there"))
    write(store, layout.STATUS, status_of("older"))
    says.answer = Observation(State.PENDING)
    (state,) = run_states(store, [RUN])
    assert (state.stage, state.step, state.updated_at) == (None, None, None)


@pytest.mark.parametrize("minutes", [-180, 0, 180])
@pytest.mark.parametrize(("attempt", "shown"), [(2, False), (3, True)])
def test_the_number_of_the_attempt_tells_whose_word_it_is_and_no_clock(
    attempt: int, shown: bool, minutes: int, store: LocalStore, says: type[SaysLauncher]
) -> None:
    """The machines of the job and the submitter may be hours apart. The job before was attempt 2."""
    says.answer = Observation(State.FAILED, "gone")
    submission = submitted().model_copy(update={"attempts_before": 2, "submitted_at": ago(60 * minutes)})
    store.put_record(layout.run_key(RUN, layout.SUBMISSION), submission)
    store.put_json(layout.run_key(RUN, layout.STATUS), status(RUN, "FAILED", attempt=attempt, message="its own reason"))
    (found,) = run_states(store, [RUN])
    assert ("its own reason" in found.reason) == shown


@pytest.mark.parametrize("said", ["none", "preempted"])
def test_what_a_job_printed_of_its_end_comes_first(
    said: str, store: LocalStore, says: type[SaysLauncher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not tell the store: it had not started, or was not started again."""
    write(store, layout.SUBMISSION, submission_of("there"))
    write(store, layout.STATUS, status_of(said))
    says.answer = Observation(State.FAILED, "FAILED in Slurm")
    monkeypatch.setattr(says, "last_words", lambda self, job, url: "setup: module load cuda (exit code 1)")
    (state,) = run_states(store, [RUN])
    assert state.reason.startswith("setup: module load cuda (exit code 1); ")
    assert state.state is (State.FAILED if said == "none" else State.PREEMPTED)


def test_one_question_for_all_jobs_of_a_launcher_and_none_for_complete_runs(
    store: LocalStore, says: type[SaysLauncher]
) -> None:
    runs = [f"tiny-b1-peft-v{n}" for n in range(1, 6)]
    for run in runs:
        submission = submitted(run, handle=f"says://{run}")
        store.put_record(layout.run_key(run, layout.SUBMISSION), submission)
    says.answer = Observation(State.RUNNING)
    assert [state.run for state in run_states(store, runs)] == runs
    assert says.asked == 1
    for run in runs:
        store.put_json(layout.run_key(run, layout.MANIFEST), {})
    assert {state.state for state in run_states(store, runs)} == {State.SUCCEEDED}
    assert says.asked == 1


def test_a_damaged_run_does_not_hide_the_others(store: LocalStore, says: type[SaysLauncher]) -> None:
    names = ["tiny-a1-peft-v1", "tiny-a2-peft-v1", "tiny-b1-peft-v1", "tiny-b1-peft-v2"]
    damages = [b"{", b"[]", b'{"handle": 3}', b"\xff\xfe"]
    for name, damage in zip(names, damages, strict=True):
        store.put(layout.run_key(name, layout.SUBMISSION), damage)
    store.put(layout.run_key("tiny-c1-peft-v1", layout.STATUS), b'{"updated_at": "yesterday"}')
    store.put_json(layout.run_key("tiny-c1-peft-v2", layout.STATUS), {"state": "RUNNING"})
    store.put_json(layout.run_key("no-spec", "other.json"), {})
    good = submitted("tiny-b2-peft-v1")
    store.put_record(layout.run_key(good.run, layout.SUBMISSION), good)
    says.answer = Observation(State.RUNNING)
    states = {state.run: state for state in run_states(store, store.folders("runs/"))}
    assert states.pop(good.run).state is State.PENDING
    assert len(states) == 7
    for state in states.values():
        assert state.state is State.UNKNOWN
        assert state.reason


def test_an_unknown_cluster_is_unknown_and_says_so(store: LocalStore) -> None:
    submission = submitted(cluster="future", handle="future://1")
    store.put_record(layout.run_key(RUN, layout.SUBMISSION), submission)
    (state,) = run_states(store, [RUN])
    assert state.state is State.UNKNOWN
    assert "'future' is not known" in state.reason
    write(store, layout.STATUS, {**dict(status_of("fresh")), "state": "FAILED"})  # type: ignore[call-overload]
    (state,) = run_states(store, [RUN])
    assert state.state is State.UNKNOWN
    assert "may have been restarted" in state.reason


def test_a_complete_run_shows_its_figures(store: LocalStore) -> None:
    write(store, layout.STATUS, status_of("fresh"))
    write(store, layout.METRICS, metrics(RUN, "B1", B1))
    write(store, layout.MANIFEST, {})
    (state,) = run_states(store, [RUN])
    assert (state.stage, state.step, state.steps, state.loss, state.eval_loss) == ("publish", 290, 290, 0.34, 0.426)
    assert state.eta_seconds is None


def test_a_complete_run_costs_one_request_and_one_of_0_1_0_shows_the_same(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, submission = metrics(RUN, "B1", B1), submitted()
    write(store, layout.SUBMISSION, submission)
    store.put_json(layout.run_key(RUN, layout.METRICS), figures)
    old = {"run": RUN, "complete_at": ago(5), "objects": []}
    store.put_json(layout.run_key(RUN, layout.MANIFEST), old)
    (without_summary,) = run_states(store, [RUN])
    summary = RunSummary.of(Metrics.model_validate(figures), submission)
    write(store, layout.MANIFEST, Manifest.model_validate({**old, "summary": summary.model_dump()}))
    read, get = [], store.get

    def counted(key: str, **options: Any) -> bytes:
        read.append(key)
        return get(key, **options)

    monkeypatch.setattr(store, "get", counted)
    (state,) = run_states(store, [RUN])
    assert read == [layout.run_key(RUN, layout.MANIFEST)]
    assert state == without_summary
    assert (state.state, state.submitted_at) == (State.SUCCEEDED, submission.submitted_at)


def test_a_job_that_never_wrote_a_status_shows_the_end_of_its_output(
    store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CEFR_BATCH_TEST_FOLDER")  # so that the job ends with a KeyError
    monkeypatch.setitem(SCHEDULERS, "local", "support.stand_in:StandInLauncher")
    scheduler = StandInLauncher()
    submitted_at = now()
    (handle,) = scheduler.submit(scheduler.render(JobGroup((JobSpec(RUN, store.url),))))
    submission = submitted(cluster="local", handle=handle).model_copy(update={"submitted_at": submitted_at})
    write(store, layout.SUBMISSION, submission)
    until(lambda: run_states(store, [RUN])[0].state is State.FAILED)
    (state,) = run_states(store, [RUN])
    assert "its process exited without reporting a status" in state.reason
    assert "The last lines of its output" in state.reason
    assert "KeyError" in state.reason


class FinishingLauncher(SaysLauncher):
    """Its job writes its last object and ends just before the scheduler looks."""

    store: LocalStore

    def observe(self, jobs: Sequence[Job]) -> dict[Job, Observation]:
        self.store.put_json(layout.run_key(RUN, layout.MANIFEST), {})
        return dict.fromkeys(jobs, Observation(State.FAILED, "its process is gone"))


def test_a_job_that_finishes_while_it_is_looked_at_does_not_show_as_failed(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCHEDULERS, "says", f"{__name__}:FinishingLauncher")
    monkeypatch.setattr(FinishingLauncher, "store", store, raising=False)
    write(store, layout.SUBMISSION, submission_of("there"))
    write(store, layout.STATUS, status_of("fresh"))
    assert run_states(store, [RUN])[0].state is State.SUCCEEDED
