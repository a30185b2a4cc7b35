"""The report's section on searches for settings: it follows the study's documents, and needs nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support.goldens import same_as_golden
from support.report_checks import same_tables
from support.report_stores import A1, B1, add_complete, report_markdown
from support.studies import Jobs, finished, prepared

from cefr_batch.cli.main import main
from cefr_batch.records import layout
from cefr_batch.records.evaluations import EvaluatedModel, EvaluationTask, SetEvaluation
from cefr_batch.records.losses import Losses
from cefr_batch.records.study import ChoiceRecord, StudyRecord, TrialRecord
from cefr_batch.report.as_json import report_json
from cefr_batch.report.check import check_report
from cefr_batch.report.collect import collect
from cefr_batch.report.write import FORMATS, render, write_report
from cefr_batch.runner.search_prepare import create_study
from cefr_batch.store.local import LocalStore

STUDY = "llama1b-b1-unsloth-s1"
TRIAL_DATA, HELD_OUT = "1" * 64, "2" * 64
FIRST = {"1": 1.61, "2": 1.52, "3": 1.44, "4": 1.73, "5": 1.35, "6": 1.58, "7": 1.4701, "8": 1.9}
IMPORTANCE = {"training.learning_rate": 0.8125, "lora.rank": 0.1875}


def add_study(store: LocalStore, study: str = STUDY, **changed: Any) -> None:
    """A study of nine trials of which none is drawn."""
    asked: dict[str, Any] = {
        "study": study, "level": "B1", "settings": {},
        "space": ["lora.rank=8,16,32", "training.learning_rate=1e-4..1e-3:log"],
        "trials": 9, "steps": [4, 12, 36], "reduction": 3, "sampler": "tpe", "seed": 0, "objective": "response_loss",
        "dataset": TRIAL_DATA, "evaluation_dataset": HELD_OUT, "cluster": "local", "code_version": "0",
        "created_at": "2026-11-01T10:00:00+00:00",
    }  # fmt: skip
    store.put_record(layout.study_key(study, layout.STUDY), StudyRecord(**{**asked, **changed}))


def draw(store: LocalStore, trials: Sequence[int] = range(1, 10), study: str = STUDY) -> None:
    for trial in trials:
        drawn = [f"lora.rank={(8, 16, 32)[trial % 3]}", f"training.learning_rate={trial}e-4"]
        record = TrialRecord(trial=trial, overrides=drawn, settings={})
        store.put_record(layout.study_key(study, layout.trial_name(trial)), record)


def choose(store: LocalStore, rung: int, values: dict[str, float], promoted: list[int], **more: Any) -> None:
    record = ChoiceRecord(round=1, rung=rung, values=values, promoted=promoted, **more)
    store.put_record(layout.study_key(STUDY, layout.choice_name(1, rung)), record)


def evaluate(store: LocalStore, model: EvaluatedModel, loss: float, dataset: str = HELD_OUT, trial: int = 5) -> str:
    """Say what a trial's model came to on a set; return the object's key."""
    task = EvaluationTask(model=model, label="B1", dataset=dataset, eval_sha256=dataset, examples=200, answered=0)
    part = {"loss": loss, "perplexity": 2.0, "tokens": 5}
    losses = Losses.model_validate({"full": part, "response": part, "seed_protocol": {"loss": loss, "perplexity": 2.0}})
    run = layout.trial_run(STUDY, trial)
    record = SetEvaluation(run=run, task=task, losses=losses, scores=[], seconds=1.0, code_version="0",
                           complete_at="2026-11-01T12:00:00+00:00")  # fmt: skip
    store.put_record(key := layout.run_key(run, layout.evaluation_name(task.name)), record)
    return key


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A complete run of B1, and no study."""
    store = LocalStore(tmp_path / "store")
    add_complete(store, "llama1b-b1-unsloth-v1", "B1", B1)
    return store


@pytest.fixture
def searched(store: LocalStore) -> LocalStore:
    """With a study that has ended: trial 9 failed at the first comparison, trial 3 on the way to the second."""
    add_study(store)
    draw(store)
    why = "training diverged | at step 3\nTraceback"
    choose(store, 1, FIRST, [3, 5, 7], failed={"9": why}, importance=IMPORTANCE)
    choose(store, 2, {"5": 1.21, "7": 1.3}, [5], failed={"3": "no space left"})
    choose(store, 3, {"5": 1.1042}, [])
    evaluate(store, "tuned", 1.187)
    evaluate(store, "base", 2.05)
    return store


def section(store: LocalStore, language: str = "en") -> str:
    """The report's section on searches; empty where it has none."""
    text = report_markdown(collect(store), language)
    heading = {"en": "\n## Searches for settings\n", "tr": "\n## Ayar aramaları\n"}[language]
    return heading.lstrip() + text.partition(heading)[2].partition("\n## ")[0] if heading in text else ""


def table(store: LocalStore) -> dict[str, list[str]]:
    """The cells of each trial: settings, values, outcome."""
    lines = [line.strip("|").split(" | ") for line in section(store).splitlines() if line.startswith("| ")][1:]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines if line[0].strip().isdigit()}


@pytest.mark.parametrize("language", ["en", "tr"])
def test_the_section_of_a_search_that_has_ended(searched: LocalStore, language: str) -> None:
    same_as_golden(f"searches.{language}.md", section(searched, language))


def test_the_page_has_the_same_table(searched: LocalStore, tmp_path: Path) -> None:
    write_report(searched, str(tmp_path), formats=["md", "html"])
    same_tables(tmp_path)


def test_the_section_says_what_a_search_came_to(store: LocalStore) -> None:
    """A search by the controller itself; of the jobs, which train nothing, the report reads the best one's evaluation."""
    jobs = Jobs(store)
    study = create_study(store, prepared(store, 9, jobs)).study
    state = finished(store, study, jobs)
    assert state.best
    text = section(store)
    assert f"Best: trial {state.best.trial} (" in text
    assert f"**{state.best.last_value:.4f}**. This figure is the lowest of several and therefore optimistic" in text
    assert f"{state.trained_steps} of the {state.grid_steps} " in text
    rank = state.importance["lora.rank"]
    assert f"`lora.rank` {100 * rank:.1f}%" in text
    cells = table(store)
    assert [sum(cell != "–" for cell in cells[str(one.trial)][1:4]) for one in state.trials] == [
        len(one.values) for one in state.trials
    ]
    (read,) = collect(store).studies
    assert read.evaluations.keys() == {"base", "tuned"}
    assert "The best trial on " in text


def test_a_report_without_a_search_has_no_word_of_it(store: LocalStore) -> None:
    assert section(store) == ""
    for kind in FORMATS:
        assert b"earches" not in render(collect(store), kind, "en")


def test_a_search_of_a_level_that_is_not_reported_is_not_read(searched: LocalStore) -> None:
    add_complete(searched, "llama1b-a1-unsloth-v1", "A1", A1)
    report = collect(searched, levels=["A1"])
    assert report.studies == ()
    assert not any(item.key.startswith("studies/") for item in report.made_from)
    assert [one.record.study for one in collect(searched, levels=["A1", "B1"]).studies] == [STUDY]


def test_the_newest_search_is_first(searched: LocalStore) -> None:
    add_study(searched, "llama1b-b1-unsloth-s2", created_at="2026-11-03T10:00:00+00:00")
    add_study(searched, "llama1b-b1-unsloth-s3", created_at="2026-11-02T10:00:00+00:00")
    names = [one.record.study for one in collect(searched).studies]
    assert names == ["llama1b-b1-unsloth-s2", "llama1b-b1-unsloth-s3", STUDY]


def test_a_search_is_shown_as_far_as_its_comparisons_say(store: LocalStore) -> None:
    """Whatever the trials' runs have come to by now: a rung that was written and not yet chosen among is not read."""
    add_study(store)
    assert "in progress" in section(store)
    draw(store, range(1, 4))
    drawn = table(store)
    assert list(drawn) == ["1", "2", "3"]
    assert all(cells[1:] == ["–", "–", "–", "in progress"] for cells in drawn.values())
    draw(store)
    choose(store, 1, FIRST, [3, 5, 7], failed={"9": "it broke"}, importance=IMPORTANCE)
    store.put_json(layout.run_key(layout.trial_run(STUDY, 3), layout.rung_name(12)), {"anything": 1})
    shown = table(store)
    assert shown["3"][1:] == ["1.4400", "–", "–", "in progress"]
    assert shown["4"][1:] == ["1.7300", "–", "–", "stopped at step 4"]
    assert shown["9"][1:] == ["–", "–", "–", "failed: it broke"]
    text = section(store)
    assert "in progress. This" in text
    assert "search best" not in text
    assert "32 of the 324" in text
    choose(store, 2, {"3": 1.2, "5": 1.21, "7": 1.3}, [3])
    choose(store, 3, {"3": 1.1}, [])
    text = section(store)
    assert "in progress" not in text
    assert "has not been evaluated on the evaluation set" in text
    assert "Best: trial 3 " in text


def test_what_the_best_trial_came_to_on_another_set_is_not_its_result(searched: LocalStore) -> None:
    evaluate(searched, "tuned", 9.99, dataset="3" * 64)
    evaluate(searched, "tuned", 8.88, trial=7)
    (study,) = collect(searched).studies
    assert study.value_of(study.evaluations["tuned"]) == 1.187
    assert "9.99" not in section(searched)


def test_where_all_trials_failed_there_are_no_best_settings(store: LocalStore) -> None:
    add_study(store)
    draw(store)
    choose(store, 1, {}, [], failed={str(trial): "it broke" for trial in range(1, 10)})
    text = section(store)
    assert "No trial came to its end" in text
    assert "search best" not in text
    assert "How much" not in text


def test_a_study_without_importance_was_written_before_it_was_recorded(searched: LocalStore) -> None:
    key = layout.study_key(STUDY, layout.choice_name(1, 1))
    searched.put_json(key, {k: v for k, v in searched.get_json(key).items() if k != "importance"})
    text = section(searched)
    assert "Best: trial 5" in text
    assert "How much" not in text


BROKEN = [
    (layout.STUDY, b"{"), (layout.STUDY, None), ("trials/2.json", b"[]"), ("trials/2.json", None),
    ("choices/round-1-rung-1.json", b'{"round": 1, "rung": 1, "values": {"x": 1.0}}'),
    ("choices/round-1-rung-2.json", b'{"round": 1, "rung": 2, "values": {"5": "low"}}'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data"), BROKEN, ids=[f"{name} {data!r}"[:40] for name, data in BROKEN])
def test_a_broken_study_is_named_and_the_others_are_shown(searched: LocalStore, name: str, data: bytes | None) -> None:
    other = "llama1b-b1-unsloth-s2"
    add_study(searched, other)
    key = layout.study_key(STUDY, name)
    searched.delete(key) if data is None else searched.put(key, data)
    report = collect(searched)
    assert [one.record.study for one in report.studies] == [other]
    assert not any(item.key.startswith(f"studies/{STUDY}/") for item in report.made_from)
    text = section(searched)
    assert "> ⚠ A search cannot be read, so it is left out of the report: " in text
    assert f"studies/{STUDY}" in text
    for kind in FORMATS:
        assert render(report, kind, "tr")


def test_whatever_a_study_names_stays_text(searched: LocalStore) -> None:
    evil = 'a`|<script>alert(1)</script>** " onload="x'
    record = TrialRecord(trial=1, overrides=[evil], settings={})
    searched.put_record(layout.study_key(STUDY, layout.trial_name(1)), record)
    choose(searched, 1, {"1": 1.6, **FIRST}, [3, 5, 7], failed={"9": evil}, importance={evil: 1.0})
    assert len(table(searched)) == 9
    page = _Attributes()
    page.feed(render(collect(searched), "html", "en").decode())
    assert page.scripts == 1
    assert "onload" not in page.names


class _Attributes(HTMLParser):
    """The names of a page's attributes, and how many scripts it has."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {name for name, _ in attrs}
        self.scripts += tag == "script"


def test_a_report_with_a_search_agrees_with_its_store(searched: LocalStore, tmp_path: Path) -> None:
    """Also when there are newer studies, and when a search that was in progress has gone on."""
    searched.delete(layout.study_key(STUDY, layout.choice_name(1, 3)))
    (file,) = write_report(searched, str(tmp_path / "report.json"))
    named = {one["key"] for one in json.loads(Path(file).read_bytes())["made_from"] if STUDY in one["key"]}
    trials = {layout.study_key(STUDY, layout.trial_name(trial)) for trial in range(1, 10)}
    choices = {layout.study_key(STUDY, layout.choice_name(1, rung)) for rung in (1, 2)}
    assert named == {layout.study_key(STUDY, layout.STUDY), *trials, *choices}
    choose(searched, 3, {"5": 1.1042}, [])
    add_study(searched, "llama1b-b1-unsloth-s2")
    assert check_report(searched, Path(file)).differences == ()
    choose(searched, 2, {"5": 1.2, "7": 1.3}, [5])
    (problem,) = check_report(searched, Path(file)).objects
    assert "choices/round-1-rung-2.json" in problem


def test_a_changed_figure_of_a_search_is_found(searched: LocalStore, tmp_path: Path) -> None:
    (file,) = write_report(searched, str(tmp_path / "report.json"))
    document = json.loads(Path(file).read_bytes())
    (search,) = document["searches"]
    assert search["best"] == f"{STUDY}-t5"
    assert search["evaluation_set"]["tuned"]["value"] == 1.187
    assert check_report(searched, Path(file)).differences == ()
    search["evaluation_set"]["tuned"]["value"] = 1.1
    search["runs"][4]["values"]["36"] = 1.0
    Path(file).write_text(json.dumps(document), encoding="utf-8")
    places = [one.place for one in check_report(searched, Path(file)).differences]
    assert places == ["searches[0].runs[4].values.36", "searches[0].evaluation_set.tuned.value"]


def test_the_data_is_what_search_show_has(searched: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    """But for the store and the states of the trials' runs, which are of the moment."""
    (search,) = report_json(collect(searched))["searches"]
    assert main(["search", "show", STUDY, "--json", "--store", str(searched.root)]) == 0
    shown = json.loads(capsys.readouterr().out)
    for run in shown["runs"]:
        del run["state"]
    assert shown.keys() - {"store"} == search.keys() - {"evaluation_set"}
    assert {key: search[key] for key in shown if key != "store"} == {k: v for k, v in shown.items() if k != "store"}


@pytest.mark.slow
def test_a_search_is_reported_without_optuna(searched: LocalStore) -> None:
    code = (
        "import sys; sys.modules['optuna'] = None\n"
        "from cefr_batch.cli.main import main\n"
        "sys.exit(main(['report', '--store', sys.argv[1]]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(searched.root)], capture_output=True, text=True, check=True)
    assert "How much each setting matters" in done.stdout
