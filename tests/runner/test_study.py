"""A search as a whole, with a stand-in for the jobs: the same study however it is killed, and nothing trained twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.studies import FIXED, Jobs, Killed, Mortal, finished, prepared, states

from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import Level
from cefr_batch.data import load_dataset, sentences_of
from cefr_batch.errors import Damaged, NotFound, NotReady, Problem
from cefr_batch.files import write_json
from cefr_batch.records import layout
from cefr_batch.records.evaluations import EvaluationRequest
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.study import ChoiceRecord, StudyRecord
from cefr_batch.runner.resume import resume_runs
from cefr_batch.runner.search import look
from cefr_batch.runner.search_prepare import create_study
from cefr_batch.runner.study import StudyState
from cefr_batch.runner.study_results import best_job_file, importance, study_json
from cefr_batch.store.local import LocalStore


def choices(store: LocalStore, study: str) -> dict[str, ChoiceRecord]:
    """The choices of a study, by name."""
    keys = [one.key for one in store.objects(layout.study_key(study, "choices", ""))]
    return {Path(key).stem: store.get_record(key, ChoiceRecord) for key in keys}


def outcome(state: StudyState) -> Any:
    """What a study came to, without when."""
    best = state.best and state.best.trial
    return best, [(one.trial, one.overrides, dict(one.values), one.failed, one.complete) for one in state.trials]


def test_a_study_of_nine_trials_trains_less_than_half_of_the_grid(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    jobs = Jobs(store)
    study = create_study(store, prepared(store, 9, jobs)).study
    state = finished(store, study, jobs)
    assert study == "tiny-b1-peft-s1"
    assert [one.rung for one in state.trials].count(1) == 6
    assert [one.rung for one in state.trials].count(2) == 2
    assert state.best
    assert state.best.complete
    assert state.best.run_name == layout.trial_run(study, state.best.trial)
    trained = sum(to - start for _, start, to in jobs.trained)
    assert state.grid_steps == 9 * 36
    assert trained == state.trained_steps <= 0.45 * state.grid_steps
    first = {one.trial: one.values[1] for one in state.trials}
    assert sorted(first, key=first.__getitem__)[:3] == sorted(
        (one.trial for one in state.trials if one.rung > 1), key=first.__getitem__
    )
    assert importance(state).keys() == {"lora.rank", "training.learning_rate"}
    assert importance(replace(state, importance={})) == dict(state.importance), "as an earlier study's is computed"
    assert study_json(store, state)["best"] == state.best.run_name


def test_the_evaluation_set_is_asked_for_once_by_the_best_trial_alone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    jobs = Jobs(store)
    search = prepared(store, 9, jobs)
    state = finished(store, (study := create_study(store, search).study), jobs)
    assert state.best
    spec = load_spec("B1", overrides=FIXED)
    held_out = sentences_of(load_dataset(spec.data, Level.B1).eval)
    assert held_out
    assert not held_out & sentences_of(search.trial_data.train)
    assert not held_out & sentences_of(search.trial_data.eval)
    assert not sentences_of(search.trial_data.train) & sentences_of(search.trial_data.eval)
    asked = [key.key for key in store.objects("runs/") if key.key.endswith(layout.EVALUATION_REQUEST)]
    assert asked == [layout.run_key(state.best.run_name, layout.EVALUATION_REQUEST)]
    request = store.get_record(asked[0], EvaluationRequest)
    assert [(task.model, task.label) for task in request.tasks] == [("base", "B1"), ("tuned", "B1")]
    assert {task.dataset for task in request.tasks} == {search.record.evaluation_dataset}
    trials = [layout.trial_run(study, n) for n in range(1, 10)]
    assert {store.get_record(layout.run_key(run, layout.SPEC), SpecRecord).dataset for run in trials} == {
        search.record.dataset
    }


def test_every_choice_is_made_while_the_evaluation_set_is_away(tmp_path: Path) -> None:
    store, away = LocalStore(tmp_path / "store"), tmp_path / "away"
    jobs = Jobs(store)
    record = create_study(store, prepared(store, 9, jobs))
    (held_out := tmp_path / "store" / "datasets" / record.evaluation_dataset).rename(away)
    with pytest.raises(NotFound, match=record.evaluation_dataset):
        finished(store, record.study, jobs)
    before = look(store, record.study, lambda _: jobs)
    assert before.best
    away.rename(held_out)
    assert outcome(finished(store, record.study, jobs)) == outcome(before)


@pytest.mark.slow
def test_a_study_that_is_killed_at_any_write_comes_out_the_same(tmp_path: Path) -> None:
    """The kill falls on writes from the first to the last, on every other one before the write arrives; what a job writes
    is no part of the controller's life."""
    undisturbed = Mortal(tmp_path / "undisturbed")
    jobs = Jobs(LocalStore(undisturbed.root))
    study = create_study(undisturbed, prepared(undisturbed, 9, jobs)).study
    undisturbed.left = 1000
    expected, ledger = outcome(finished(undisturbed, study, jobs)), sorted(jobs.trained)
    chosen = choices(undisturbed, study)
    assert chosen["round-1-rung-1"].importance
    writes = 1000 - int(undisturbed.left)
    for number, after in enumerate(range(0, writes, writes // 6)):
        store = Mortal(tmp_path / f"killed-{number}")
        jobs = Jobs(LocalStore(store.root))
        assert create_study(store, prepared(store, 9, jobs)).study == study
        store.left, store.arrives = after, number % 2 == 0
        with pytest.raises(Killed):
            finished(store, study, jobs)
        store.left = float("inf")
        assert outcome(finished(store, study, jobs)) == expected, f"killed at write {after}"
        assert choices(store, study) == chosen
        assert sorted(jobs.trained) == ledger, "a step was trained twice, or never"


@pytest.mark.parametrize("started", [True, False])
def test_two_who_go_on_with_a_study_do_not_stop_each_other(
    started: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one starts a trial after this one saw it idle; but a trial that nobody could start is an error."""
    store = LocalStore(tmp_path)
    jobs = Jobs(store)
    study = create_study(store, prepared(store, 9, jobs)).study
    refusals = 0

    def refused(*arguments: Any, **options: Any) -> None:
        nonlocal refusals
        refusals += 1
        if started:
            resume_runs(*arguments, **options)
        raise NotReady([Problem("the run", "is RUNNING already" if started else "its dataset is not there")], 1)

    monkeypatch.setattr("cefr_batch.runner.search.resume_runs", refused)
    if started:
        assert finished(store, study, jobs).best
        assert refusals == 3, "one at each rung"
    else:
        with pytest.raises(NotReady, match="its dataset"):
            finished(store, study, jobs)


@pytest.mark.slow
def test_trials_that_fail_are_told_and_those_that_die_start_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    jobs = Jobs(store, fails=(2, 5), dies=Counter({"tiny-b1-peft-s1-t3": 1, "tiny-b1-peft-s1-t4": 9}))
    state = finished(store, create_study(store, prepared(store, 9, jobs)).study, jobs)
    failed = {one.trial: one.failed for one in state.trials if one.failed}
    assert failed.keys() == {2, 4, 5}
    assert failed[2] == "training diverged"
    assert "gone" in failed[4]
    assert all(not one.values for one in state.trials if one.failed)
    assert next(one for one in state.trials if one.trial == 3).values
    assert state.best
    assert state.evaluated


def test_jobs_that_were_preempted_do_not_count_among_those_that_died(tmp_path: Path) -> None:
    store, run = LocalStore(tmp_path), "tiny-b1-peft-s1-t3"
    jobs = Jobs(store, stops=Counter({run: 3}), dies=Counter({run: 2}))
    state = finished(store, create_study(store, prepared(store, 9, jobs)).study, jobs)
    assert not any(one.failed for one in state.trials)
    assert [one for one in jobs.trained if one[0] == run][:4] == [(run, 0, 1), (run, 1, 2), (run, 2, 3), (run, 3, 4)]


def test_a_damaged_record_of_a_trial_s_attempt_does_not_end_the_search(tmp_path: Path) -> None:
    """As a machine that died left it."""
    store, run = LocalStore(tmp_path), "tiny-b1-peft-s1-t3"
    jobs = Jobs(store, dies=Counter({run: 2}))
    study = create_study(store, prepared(store, 9, jobs)).study
    key = layout.run_key(run, layout.attempt_name(1))
    for _ in states(store, study, jobs):
        if store.exists(key):
            store.put(key, b'{"attempt": 1, "ho')
    assert not any(one.failed for one in look(store, study, lambda _: jobs).trials)


def test_a_study_without_a_trial_that_works_says_so(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    jobs = Jobs(store, fails=tuple(range(1, 10)))
    state = finished(store, create_study(store, prepared(store, 9, jobs)).study, jobs)
    assert state.stopped == "no trial came to its end; see why in `cefr-batch search show`"
    with pytest.raises(NotFound, match="has no best trial yet"):
        best_job_file(state)


def test_a_second_round_learns_from_the_first(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    jobs = Jobs(store)
    study = create_study(store, prepared(store, 20, jobs)).study
    seen = [len(state.trials) for state in states(store, study, jobs)]
    assert seen[0] == 9, "the second round is drawn when the first has ended"
    state = look(store, study, lambda _: jobs)
    assert len(state.trials) == 20
    assert sum(one.complete for one in state.trials) == 3
    assert state.best
    rates = [float(one.overrides[1].partition("=")[2]) for one in state.trials]
    near = [sum(abs(rate - 3e-4) for rate in part) / len(part) for part in (rates[:9], rates[9:])]
    assert near[1] < near[0]
    chosen = [choices(store, study)[f"round-{number}-rung-1"].importance for number in (1, 2, 3)]
    assert state.importance == chosen[2] != chosen[0], "by the trials of all rounds"
    assert all(sum(shares.values()) == pytest.approx(1) for shares in chosen)
    assert importance(replace(state, importance={})) == chosen[2]


def test_the_best_settings_are_a_job_file_that_gives_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path / "store")
    jobs = Jobs(store)
    state = finished(store, create_study(store, prepared(store, 9, jobs)).study, jobs)
    text = best_job_file(state)
    assert state.best
    (file := tmp_path / "b1-best.yaml").write_text(text, encoding="utf-8")
    chosen = load_spec("B1", profile=str(file))
    overrides = [*FIXED[:1], *FIXED[2:], *state.best.overrides]
    assert chosen == load_spec("B1", overrides=overrides)
    assert text.startswith("# Chosen by tiny-b1-peft-s1, trial ")
    monkeypatch.setenv("CEFR_BATCH_JOBS", str(jobs_folder := tmp_path / "jobs"))
    for name in ("base", "b1"):
        source = Path(__file__).parents[2] / "jobs" / f"{name}.yaml"
        jobs_folder.mkdir(exist_ok=True)
        (jobs_folder / f"{name}.yaml").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    assert load_spec("B1", profile=str(file)) == chosen
    assert yaml.safe_load(text)["extends"] == "b1"


def test_a_study_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with pytest.raises(NotFound, match=r"no study 'x' in .*; there: none"):
        look(store, "x", lambda _: Jobs(store))
    write_json(tmp_path / "studies" / "b" / "study.json", {})
    with pytest.raises(NotFound, match="there: b"):
        look(store, "../b", lambda _: Jobs(store))


def test_a_study_whose_documents_do_not_fit_each_other_is_damaged(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    jobs = Jobs(store)
    study = create_study(store, prepared(store, 9, jobs)).study
    finished(store, study, jobs)
    key = layout.study_key(study, layout.trial_name(4))
    trial = store.get(key)
    store.delete(key)
    with pytest.raises(Damaged, match=r"studies/tiny-b1-peft-s1: trial 4 was compared but is not stored"):
        look(store, study, lambda _: jobs)
    store.put(key, trial)
    other = store.get_record(layout.study_key(study, layout.STUDY), StudyRecord).model_copy(
        update={"study": "other-s1"}
    )
    store.put_record(layout.study_key(study, layout.STUDY), other)
    with pytest.raises(Damaged, match="is the record of 'other-s1'"):
        look(store, study, lambda _: jobs)
