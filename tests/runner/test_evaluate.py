"""Asking for evaluations: everything is checked first, what is asked is recorded, and every end is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from support.evaluated import complete_run, dataset_of, random_adapter
from support.says_scheduler import SaysLauncher
from support.stand_in import StandInLauncher

from cefr_batch.config.load import load_spec
from cefr_batch.data.examples import list_format
from cefr_batch.errors import JobsMayRun, NotReady, SchedulerError, StoreError
from cefr_batch.job.publish import manifest
from cefr_batch.job.sync import Mirror
from cefr_batch.records import layout
from cefr_batch.records.evaluations import EvaluationTask, SetEvaluation
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.losses import Loss, Losses, TokenLoss
from cefr_batch.records.status import Status
from cefr_batch.records.submission import Submission
from cefr_batch.records.timestamps import now
from cefr_batch.runner import PruneRules, Session
from cefr_batch.runner.clock import Clock
from cefr_batch.runner.evaluate import PreparedEvaluations, cross_tasks, request_evaluations
from cefr_batch.runner.evaluations import evaluation_states, open_tasks, requested_tasks
from cefr_batch.runner.findings import Findings
from cefr_batch.runner.launch import launch
from cefr_batch.runner.prepare import Preparation, read_runs
from cefr_batch.runner.wait import FAILED_SECONDS, wait_until_ended
from cefr_batch.schedulers import SCHEDULERS, Observation, State
from cefr_batch.schedulers.local.scheduler import LocalRequest
from cefr_batch.store.local import LocalStore

RUN = "tiny-a2-peft-v1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CEFR_BATCH_TEST_FOLDER", str(tmp_path))
    monkeypatch.setitem(SCHEDULERS, "says", "support.says_scheduler:SaysLauncher")
    return tmp_path


@pytest.fixture
def store(folder: Path) -> LocalStore:
    return LocalStore(folder / "store")


@pytest.fixture
def run(store: LocalStore, tiny_model: Path) -> str:
    return complete_run(store, tiny_model, "A2", "training.max_length=2000")


class StartsNothing(StandInLauncher):
    """Says that it has started whatever is submitted."""

    refuses = False

    def submit(self, request: tuple[LocalRequest, ...]) -> list[str]:
        if self.refuses:
            raise SchedulerError("no room")
        return ["says://1"] * len(request)


def task(label: str = "A1", model: Any = "tuned", sha256: str = "a" * 64) -> EvaluationTask:
    return EvaluationTask(model=model, label=label, dataset="d" * 64, eval_sha256=sha256, examples=4, answered=2)


def result(run: str, one: EvaluationTask) -> SetEvaluation:
    loss = TokenLoss.of(1.0, 10)
    losses = Losses(full=loss, response=loss, seed_protocol=Loss(loss=1.0, perplexity=2.7))
    about = {"seconds": 1.0, "code_version": "0", "complete_at": now()}
    return SetEvaluation(run=run, task=one, losses=losses, scores=[], **about)  # type: ignore[arg-type]


def add_result(store: LocalStore, run: str, one: EvaluationTask) -> None:
    store.put_record(layout.run_key(run, layout.evaluation_name(one.name)), result(run, one))


def prepared(store: LocalStore, runs: list[str], on: list[str], **more: Any) -> PreparedEvaluations:
    return Session(store).prepare_evaluations(runs, on, cluster=StartsNothing(), **more)


def test_a_name_is_of_what_is_computed_and_no_path() -> None:
    assert task().name == task().name
    others = [task(model="base"), task(sha256="b" * 64), task().model_copy(update={"examples": 3})]
    assert len({one.name for one in (task(), *others)}) == 4
    name = task("../My Set.json").name
    assert layout.is_run_name(name)
    assert name.startswith("tuned-on-my-set-json-")
    assert task("…").name.startswith("tuned-on-file-")


def test_every_problem_is_told_at_once(store: LocalStore, run: str, tiny_model: Path, tmp_path: Path) -> None:
    other = complete_run(store, tiny_model, "B1", "training.max_length=20", "data.allow_truncation=true")
    spec = store.get_json(layout.run_key(other, layout.SPEC))
    spec["spec"]["data"]["allow_truncation"] = False
    store.put_json(layout.run_key(other, layout.SPEC), spec)
    store.put_json(layout.run_key("tiny-c1-peft-v1", layout.SPEC), spec)
    broken = tmp_path / "broken.json"
    broken.write_text('[{"instruction": "x", "output": ""}]')
    with pytest.raises(NotReady) as caught:
        prepared(store, [run, other, "tiny-c1-peft-v1"], ["A1", "Z9", str(broken)])
    said = [str(problem) for problem in caught.value.problems]
    assert caught.value.exit_code == 2
    assert len(said) == 5
    assert said[0] == "--on: 'Z9' is neither a level (A1, A2, B1, B2, C1, all) nor a file"
    assert "broken.json" in said[1]
    assert "output is empty" in said[1]
    assert said[2].startswith("tiny-c1-peft-v1: is not complete, so it has no model to evaluate")
    assert said[3].startswith(
        f"{other} on A1: training.max_length of 20 tokens would cut 200 of 200 examples (the longest has "
    )
    assert said[4].startswith(f"{other} on A1: 200 of 200 examples have no response left within 20 tokens")
    assert not store.exists(layout.run_key(run, layout.EVALUATION_REQUEST))


def test_a_level_is_its_newest_complete_run_s_set_or_its_job_file_s(
    store: LocalStore, run: str, tiny_model: Path
) -> None:
    stored = complete_run(store, tiny_model, "B1", "data.seed=7")
    found = prepared(store, [run], ["b1", "A1"])
    of_run, of_file = found.sets
    assert of_run.dataset == dataset_of("B1", tiny_model, "data.seed=7")
    assert (of_run.label, len(of_run.examples())) == ("B1", 4)
    assert of_file.dataset.eval_sha256 == load_dataset_of("A1")
    assert [one.examples for one in found.tasks[run]] == [4, 200]
    assert [one.answered for one in found.tasks[run]] == [2, 2]
    assert stored.startswith("tiny-b1")


def test_all_are_the_levels_that_have_a_complete_run_without_a_run_s_own_set(
    store: LocalStore, run: str, tiny_model: Path
) -> None:
    other = complete_run(store, tiny_model, "B1", "training.max_length=2000")
    found = prepared(store, [run, other], ["all"])
    assert {one: [task.label for task in tasks] for one, tasks in found.tasks.items()} == {run: ["B1"], other: ["A2"]}
    named = prepared(store, [run], ["all", "a2"], base=True)
    assert [(task.model, task.label) for task in named.tasks[run]] == [
        ("base", "A2"), ("tuned", "A2"), ("base", "B1"), ("tuned", "B1"),
    ]  # fmt: skip


def load_dataset_of(level: str) -> str:
    from cefr_batch.data import load_dataset

    spec = load_spec(level)
    return load_dataset(spec.data, spec.level).eval_sha256


def test_a_file_of_one_s_own_is_stored_by_its_content_and_asked_of_both_models(
    store: LocalStore, run: str, tiny_model: Path, tmp_path: Path
) -> None:
    from cefr_batch.store.datasets import fetch_dataset

    examples = dataset_of("C1", tiny_model).eval
    (tmp_path / "mine.json").write_bytes(list_format(examples))
    session = Session(store)
    ready = prepared(store, [run], [str(tmp_path / "mine.json")], base=True, examples=3)
    (submission,) = session.launch_evaluations(ready)
    assert submission.run == run
    assert store.get_record(layout.run_key(run, layout.EVALUATION_SUBMISSION), Submission) == submission
    tasks = open_tasks(store, run)
    assert [(one.model, one.label, one.examples) for one in tasks] == [
        ("base", "mine.json", 3),
        ("tuned", "mine.json", 3),
    ]
    fetched = fetch_dataset(store, tasks[0].dataset, tmp_path / "fetched")
    assert (fetched.train, fetched.eval) == ((), examples)


@pytest.mark.slow
def test_what_is_stored_is_not_asked_again_and_what_is_open_stays_asked(
    store: LocalStore, run: str, tiny_model: Path
) -> None:
    session = Session(store)
    session.launch_evaluations(prepared(store, [run], ["A1"]))
    (first,) = requested_tasks(store, run)
    session.launch_evaluations(prepared(store, [run], ["B1"]))
    assert [one.label for one in open_tasks(store, run)] == ["A1", "B1"]
    for one in open_tasks(store, run):
        add_result(store, run, one)
    again = prepared(store, [run], ["A1", "B1"])
    assert session.preview_evaluations(again).runs == []
    assert session.launch_evaluations(again) == []
    assert [one.task for one in session.evaluations(run) if one.task.label == "A1"] == [first]


def test_a_start_that_fails_asks_nothing(store: LocalStore, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(store)
    session.launch_evaluations(prepared(store, [run], ["A1"]))
    before = requested_tasks(store, run)
    monkeypatch.setattr(StartsNothing, "refuses", True)
    with pytest.raises(SchedulerError, match="no room"):
        session.launch_evaluations(prepared(store, [run], ["B1"]))
    assert requested_tasks(store, run) == before


def test_a_start_that_fails_keeps_what_others_ask_meanwhile(
    store: LocalStore, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(_self: StartsNothing, _request: object) -> list[str]:
        request_evaluations(store, run, [*open_tasks(store, run), task("C1")])
        raise SchedulerError("no room")

    monkeypatch.setattr(StartsNothing, "submit", submit)
    with pytest.raises(SchedulerError, match="no room"):
        Session(store).launch_evaluations(prepared(store, [run], ["A1"]))
    assert [one.label for one in requested_tasks(store, run)] == ["C1"]


def test_a_start_of_which_nobody_knows_whether_it_failed_stays_asked(
    store: LocalStore, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StartsNothing, "submit", interrupted)
    with pytest.raises(JobsMayRun):
        Session(store).launch_evaluations(prepared(store, [run], ["A1"]))
    assert [one.label for one in requested_tasks(store, run)] == ["A1"]


def test_an_interruption_before_the_start_asks_nothing(
    store: LocalStore, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cefr_batch.runner.submission.newest_attempt", interrupted)
    asked = prepared(store, [run], ["A1"])
    with pytest.raises(KeyboardInterrupt):
        Session(store).launch_evaluations(asked)
    assert requested_tasks(store, run) == []


def interrupted(*_: object) -> Any:
    raise KeyboardInterrupt


def test_the_dry_run_names_what_would_be_sent(store: LocalStore, run: str) -> None:
    request = Session(store).preview_evaluations(prepared(store, [run], ["A1"]))
    assert request.runs == [run]
    assert store.url in request.text
    assert not store.exists(layout.run_key(run, layout.EVALUATION_REQUEST))


# How far it is.


def said(state: Any, *, minutes_ago: float = 0.0, message: str = "") -> Status:
    at = (datetime.now(timezone.utc) - timedelta(minutes=minutes_ago)).isoformat(timespec="seconds")
    progress: dict[str, Any] = {"stage": "tuned on A1", "step": 2, "steps": 4}
    about: dict[str, Any] = {"attempt": 1, "stages_done": [], "host": "node", "pid": 1, "message": message}
    return Status(run=RUN, state=state, updated_at=at, **progress, **about)


def add_job(store: LocalStore, run: str, *, cancelled: bool = False) -> None:
    at = (datetime.now(timezone.utc) - timedelta(hours=1)).isoformat(timespec="seconds")
    who: dict[str, Any] = {"submitted_by": "me", "cancelled_at": now() if cancelled else None}
    record = Submission(run=run, cluster="says", handle="says://1", submitted_at=at, **who)
    store.put_record(layout.run_key(run, layout.EVALUATION_SUBMISSION), record)


CASES: dict[str, tuple[State | None, Callable[[], Status] | None, bool, State, str]] = {
    "queued": (State.PENDING, None, False, State.PENDING, "starting"),
    "computing": (State.RUNNING, lambda: said("RUNNING"), False, State.RUNNING, ""),
    "failed": (State.FAILED, lambda: said("FAILED", message="no adapter"), False, State.FAILED, "no adapter"),
    "died": (State.FAILED, None, False, State.FAILED, "as before does the rest"),
    "ended without results": (State.SUCCEEDED, lambda: said("RUNNING"), False, State.FAILED, "at tuned on A1"),
    "cancelled": (State.CANCELLED, None, True, State.CANCELLED, "as before does the rest"),
    "nobody knows, heartbeat": (None, lambda: said("RUNNING"), False, State.RUNNING, "on node"),
    "nobody knows": (None, lambda: said("RUNNING", minutes_ago=30), False, State.UNKNOWN, "30 minutes old"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_state_of_evaluations(case: str, store: LocalStore, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    observed, status, cancelled, state, reason = CASES[case]
    request_evaluations(store, run, [task()])
    add_job(store, run, cancelled=cancelled)
    if status:
        store.put_record(layout.run_key(run, layout.EVALUATION_STATUS), status())
    monkeypatch.setattr(SaysLauncher, "answer", Observation(observed) if observed else None)
    (found,) = evaluation_states(store, [run])
    assert found.state is state
    assert reason in found.reason
    assert found.settled is state.finished
    if case == "computing":
        assert (found.stage, found.step, found.steps) == ("tuned on A1", 2, 4)
    add_result(store, run, task())
    (found,) = evaluation_states(store, [run])
    assert (found.state, found.settled, found.reason) == (State.SUCCEEDED, True, "")


def test_what_an_older_job_said_does_not_show(store: LocalStore, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SaysLauncher, "answer", Observation(State.RUNNING))
    request_evaluations(store, run, [task()])
    store.put(layout.run_key(run, layout.log_name(1, layout.EVALUATION_LOGS)), b"no adapter\n")
    store.put_record(layout.run_key(run, layout.EVALUATION_STATUS), said("FAILED", message="no adapter"))
    (submission,) = Session(store).launch_evaluations(prepared(store, [run], ["A1"]))
    assert submission.attempts_before == 1
    add = submission.model_copy(update={"cluster": "says"})
    store.put_record(layout.run_key(run, layout.EVALUATION_SUBMISSION), add)
    (found,) = evaluation_states(store, [run])
    assert (found.state, found.stage) == (State.PENDING, None)
    second = said("RUNNING").model_copy(update={"attempt": 2})
    store.put_record(layout.run_key(run, layout.EVALUATION_STATUS), second)
    (found,) = evaluation_states(store, [run])
    assert (found.state, found.stage) == (State.RUNNING, "tuned on A1")


@pytest.mark.parametrize(
    ("end", "waits"),
    [
        (lambda store, run: None, True),
        (lambda store, run: add_result(store, run, task()), False),
        (lambda store, run: add_job(store, run, cancelled=True), False),
        (lambda store, run: put_status(store, run, FAILED_SECONDS / 60 + 1), False),
        (lambda store, run: put_status(store, run, 1), True),
    ],
    ids=["open", "stored", "cancelled", "failed for long", "failed just now"],
)
def test_a_report_waits_for_evaluations_that_may_still_come(
    end: Callable[[LocalStore, str], None], waits: bool, store: LocalStore, run: str
) -> None:
    assert wait_until_ended(store, [run], 0) == []
    store.put_record(layout.run_key(run, layout.STATUS), said("RUNNING"))  # it has started
    request_evaluations(store, run, [task()])
    end(store, run)
    seconds = iter(range(100))
    clock = Clock(lambda: float(next(seconds)), lambda _: None)
    assert wait_until_ended(store, [run], 3, clock=clock) == ([run] if waits else [])


def put_status(store: LocalStore, run: str, minutes_ago: float) -> None:
    store.put_record(layout.run_key(run, layout.EVALUATION_STATUS), said("FAILED", minutes_ago=minutes_ago))


def test_cancel_stops_the_job_that_evaluates_a_complete_run(
    store: LocalStore, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[Any] = []
    monkeypatch.setattr(SaysLauncher, "answer", Observation(State.RUNNING))
    monkeypatch.setattr(SaysLauncher, "cancel", lambda _self, jobs, _url: stopped.extend(jobs), raising=False)
    request_evaluations(store, run, [task()])
    add_job(store, run)
    (one,) = Session(store).cancel([run])
    assert (one.asked, one.evaluating, one.state.state) == (True, True, State.SUCCEEDED)
    assert [job.run for job in stopped] == [run]
    assert store.get_record(layout.run_key(run, layout.EVALUATION_SUBMISSION), Submission).cancelled_at
    add_result(store, run, task())
    (one,) = Session(store).cancel([run])
    assert not one.asked


# Beside the manifest.


def test_evaluations_are_pulled_and_removed_with_the_run_and_no_part_of_its_manifest(
    store: LocalStore, tiny_model: Path, tmp_path: Path
) -> None:
    adapter = random_adapter(tiny_model, tmp_path / "adapter")
    run = complete_run(store, tiny_model, "A2", adapter=adapter)
    session = Session(store)
    request_evaluations(store, run, [task()])
    add_result(store, run, task())
    name = layout.evaluation_name(task().name)
    folder = session.pull(run, tmp_path / "pulled")
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.json")) == [
        "adapter/adapter_config.json",
        name,
        layout.MANIFEST,
    ]
    assert json.loads((folder / name).read_text())["task"]["label"] == "A1"
    assert session.pull(run, tmp_path / "part", only=["evaluations"]).joinpath(name).is_file()
    assert session.verify(run).problems == {}
    listed = [one.key for one in manifest(Mirror(store, run, WorkDir(tmp_path / "work"), 2)).objects]
    assert "adapter/adapter_config.json" in listed
    assert [key for key in listed if key.startswith(layout.EVALUATIONS)] == []

    complete_run(store, tiny_model, "A2")
    (removal,) = session.find_removals(PruneRules(keep=1))
    assert removal.run == run
    list(session.remove([removal]))
    assert list(store.objects(f"runs/{run}/")) == []


# With the runs themselves.


def test_runs_that_start_together_are_each_asked_for_the_sets_of_all_others(
    store: LocalStore, tiny_model: Path
) -> None:
    items = {}
    for number, (level, seed) in enumerate((("A1", 1), ("A1", 2), ("B1", 1), ("C1", 1))):
        spec = load_spec(level, overrides=[f"model.name={tiny_model}", f"training.seed={seed}", "data.examples=40"])
        items[f"run-{number}"] = (spec, dataset_of(level, tiny_model))
    found = cross_tasks(items)
    labels = {run: [one.label for one in tasks] for run, tasks in found.items()}
    assert labels == {"run-0": ["B1", "C1"], "run-1": ["B1", "C1"], "run-2": ["A1", "C1"], "run-3": ["A1", "B1"]}
    assert {one.model for tasks in found.values() for one in tasks} == {"tuned"}


def test_cross_evaluate_records_its_requests_with_the_runs_or_starts_nothing(
    store: LocalStore, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [f"model.name={tiny_model}", "backend=peft", "data.examples=40"]
    specs = [load_spec(level, overrides=overrides) for level in ("A1", "B1")]
    preparation = Preparation(read_runs(specs, Findings()), StartsNothing(), cross_evaluate=True)
    started = launch(store, preparation).runs
    assert [[one.label for one in requested_tasks(store, run)] for run in started] == [["B1"], ["A1"]]
    monkeypatch.setattr(StartsNothing, "refuses", True)
    with pytest.raises(SchedulerError):
        launch(store, preparation)
    assert Session(store).runs() == sorted(started)


@pytest.mark.parametrize(
    "where", ["launch._warn_of_repeats", "evaluate.request_evaluations", "submission.newest_attempt"]
)
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), StoreError("no answer")], ids=["interrupted", "store"])
def test_what_fails_before_a_job_is_started_leaves_no_run(
    failure: BaseException, where: str, store: LocalStore, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise failure

    overrides = [f"model.name={tiny_model}", "backend=peft", "data.examples=40"]
    specs = [load_spec(level, overrides=overrides) for level in ("A1", "B1")]
    preparation = Preparation(read_runs(specs, Findings()), StartsNothing(), cross_evaluate=True)
    monkeypatch.setattr(f"cefr_batch.runner.{where}", fails)
    with pytest.raises(type(failure)):
        launch(store, preparation)
    assert list(store.objects(f"{layout.RUNS}/")) == []


def test_cross_evaluate_checks_lengths_and_that_there_is_something_to_cross(
    store: LocalStore, tiny_model: Path
) -> None:
    overrides = [f"model.name={tiny_model}", "backend=peft", "data.examples=40", "data.words_per_example=3"]

    def prepared(*levels: str) -> Preparation:
        return Session(store).prepare(
            levels, cluster=StartsNothing(), overrides=overrides, cross_evaluate=True, ask_scheduler=False
        )

    with pytest.raises(NotReady, match="--cross-evaluate: needs runs with at least two different evaluation sets"):
        prepared("A1")
    assert prepared("A1", "B1").cross_evaluate
