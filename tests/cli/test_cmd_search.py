"""``cefr-batch search``: what it refuses, what it starts, and what it shows."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.runs import settings
from support.studies import Jobs, finished, prepared

from cefr_batch.cli.main import main
from cefr_batch.config.load import load_spec
from cefr_batch.records import layout
from cefr_batch.records.rung import Pause
from cefr_batch.runner import Session
from cefr_batch.runner.search_prepare import create_study
from cefr_batch.schedulers.base import Job, Observation, State
from cefr_batch.schedulers.local.scheduler import LocalRequest, LocalScheduler
from cefr_batch.store.local import LocalStore


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name the level to search for with --level, or the study to continue with --resume"),
        (["--level", "B1", "--resume", "x-s1"], "name the level to search for with --level, or the study"),
        (["--level", "A1,B1"], "a study searches for one level; start one study for each"),
        (["--level", "B1", "--set", "lora.rank=8"], "there is nothing to search: give a setting several values"),
        (["--level", "B1", "--set", "data.seed=1,2"], "data.seed cannot be searched: trials could not be compared"),
        (["--level", "B1", "--set", "training.epochs=1..3"], "training.epochs cannot be searched"),
        (["--level", "B1", "--set", "lora.rank=8,16", "--set", "lora.rank=2..4"], "lora.rank is given twice"),
        (["--level", "B1", "--set", "lora.rank=9..8"], "must be a range"),
        (["--level", "B1", "--set", "lora.rank=8,16", "--trials", "0"], "0 is not in the range"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", *arguments, "--store", str(tmp_path / "store")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_a_search_starts_its_first_round(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The jobs are taken and not started: whether trials train and stop as they should is another test's matter."""
    started: list[str] = []

    def submit(self: LocalScheduler, request: tuple[LocalRequest, ...]) -> list[str]:
        started.extend(one.work.name for one in request)
        return [f"local://{socket.gethostname()}/999000000" for _ in request]

    def observe(_: LocalScheduler, jobs: Sequence[Job]) -> dict[Job, Observation]:
        return {job: Observation(alive[-1], "gone" if alive[-1] is State.FAILED else "") for job in jobs}

    alive = [State.RUNNING]
    monkeypatch.setattr(LocalScheduler, "submit", submit)
    monkeypatch.setattr(LocalScheduler, "observe", observe)
    store = LocalStore(tmp_path / "store")
    fixed = [f"model.name={tiny_model}", "backend=peft", "data.examples=40", "data.words_per_example=3"]
    fixed += ["training.max_length=2048", "training.max_steps=36", "training.eval_steps=2"]
    searched = settings(*fixed, "lora.rank=2,4", "training.learning_rate=1e-4,1e-3")
    assert main(["search", "--level", "B1", *searched, "--store", store.url]) == 0
    out = capsys.readouterr().out.splitlines()
    study = "tiny-llama-b1-peft-s1"
    assert out[:2] == [
        "These settings have 4 combinations, so there are 4 trials.",
        f"{study}: 4 trials, compared at steps 4, 12, 36",
    ]
    assert f"  cefr-batch search --resume {study} --wait --store {store.url}" in out
    assert started == [f"{study}-t{n}" for n in range(1, 5)]
    for run in started:
        assert store.get_record(layout.run_key(run, layout.PAUSE), Pause) == Pause(after_step=4, levels=False)
    seen = {tuple(store.get_json(layout.study_key(study, layout.trial_name(n)))["overrides"]) for n in range(1, 5)}
    assert len(seen) == 4

    # A job that ends before it says anything is told, and starts again only where somebody asks for it.
    alive.append(State.FAILED)
    assert main(["search", "show", study, "--store", store.url]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split() == ["TRIAL", "STATE", "STEP", "4", "STEP", "12", "STEP", "36", "SETTINGS"]
    assert f"{study}: 0 of 4 trials compared" in shown
    assert main(["search", "--resume", study, "--store", store.url]) == 0
    assert started == 2 * [f"{study}-t{n}" for n in range(1, 5)]
    assert main(["search", "best", study, "--store", store.url]) == 1
    assert "has no best trial yet" in capsys.readouterr().err


def test_whoever_waits_is_told_how_far_each_trial_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = LocalStore(tmp_path / "store")
    jobs = Jobs(store, fails=(2,), at_once=1)
    study = create_study(store, prepared(store, 3, jobs)).study
    monkeypatch.setattr("cefr_batch.runner.session.get_scheduler", lambda _: jobs)
    monkeypatch.setattr(Session, "search_seconds", 0.0)
    assert main(["search", "--resume", study, "--wait", "--store", store.url]) == 0
    out = capsys.readouterr().out.splitlines()
    assert f"{study}-t2: failed: training diverged" in out
    assert sum(line.startswith(f"{study}-t1: step 4, response loss ") for line in out) == 1
    assert out.index(f"{study}-t1: running to step 4") < out.index(next(line for line in out if ": step 4, " in line))
    assert sum(": step 36, response loss " in line for line in out) == 1
    assert out[-2:] == [
        f"  cefr-batch search show {study} --store {store.url}",
        f"  cefr-batch search best {study} --store {store.url}",
    ]


def test_a_study_that_has_ended_is_shown_with_its_best_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = LocalStore(tmp_path / "store")
    jobs = Jobs(store, fails=(2,))
    state = finished(store, study := create_study(store, prepared(store, 9, jobs)).study, jobs)
    assert state.best
    assert main(["search", "show", study, "--store", store.url]) == 0
    out = capsys.readouterr().out
    assert f"{study}: 8 of 9 trials compared, 1 failed\n  {study}-t2 failed: training diverged\n" in out
    assert f"Best: {state.best.run_name}, response loss " in out
    assert "The evaluation set took no part in it.\n" in out
    assert "How much each setting matters at the first comparison (PED-ANOVA): " in out
    assert main(["search", "show", study, "--json", "--store", store.url]) == 0
    assert json.loads(capsys.readouterr().out)["best"] == state.best.run_name
    assert main(["search", "best", study, "--store", store.url]) == 0
    (file := tmp_path / "best.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    rank = next(one for one in state.best.overrides if one.startswith("lora.rank")).partition("=")[2]
    assert load_spec("B1", profile=str(file)).lora.rank == int(rank)
    assert main(["search", "show", "nope", "--store", store.url]) == 1
    assert f"no study 'nope' in {store.url}; there: {study}" in capsys.readouterr().err
