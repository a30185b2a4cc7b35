"""Must show: a search on this machine chooses without the evaluation set, and comes out the same however often its
controller is killed: no step trained twice, and the best trial's adapter is that of a run that trained straight through.

A short one is part of `make e2e`; the one of nine trials takes many minutes, so it is part of `make e2e-long`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clusters import until
from support.job_runs import adapter, start_training
from support.runs import ROOT, cefr_batch, read, settings

from cefr_batch.files import write_json
from cefr_batch.records import layout
from cefr_batch.records.layout import WorkDir
from cefr_batch.store.datasets import fetch_dataset
from cefr_batch.store.local import LocalStore

pytestmark = pytest.mark.e2e

FIXED = [
    "backend=peft",
    "data.examples=60",
    "data.words_per_example=3",
    "evaluation.max_examples=6",
    "generation.examples=0",
    "training.batch_size=2",
    "training.gradient_accumulation_steps=1",
    "training.eval_steps=2",
    "training.logging_steps=3",
]
SEARCHED = ["lora.rank=2,4,8", "training.learning_rate=1e-4..1e-2:log"]
STUDY = "tiny-llama-b1-peft-s1"


def start(store: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cefr_batch", "search", *arguments, "--wait", "--store", str(store)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def kill_when(controller: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """SIGKILL the controller as soon as that is in the store."""
    until(lambda: happened() or controller.poll() is not None, 900)
    assert controller.poll() is None, controller.communicate()[0]
    controller.send_signal(signal.SIGKILL)
    controller.wait()


def search(store: Path, *arguments: str) -> str:
    return cefr_batch("search", *arguments, store=store)


def states(store: Path) -> list[str]:
    """Of the trials' runs."""
    return [one["state"] for one in json.loads(search(store, "show", STUDY, "--json"))["runs"]]


def is_paused(store: Path, trial: int) -> bool:
    """Whether its job says so."""
    status = store / "runs" / f"{STUDY}-t{trial}" / "status.json"
    return status.is_file() and bool(json.loads(status.read_text()).get("paused"))


def evaluation_set(store: Path) -> Path:
    """Its folder in the store."""
    return store / "datasets" / str(read(store / "studies" / STUDY, "study.json")["evaluation_dataset"])


def trial_data(store: Path) -> Path:
    """The folder of what trials train on and are compared by."""
    return store / "datasets" / str(read(store / "studies" / STUDY, "study.json")["dataset"])


def outcome(store: Path) -> Any:
    """What the study came to."""
    shown = json.loads(search(store, "show", STUDY, "--json"))
    trials = [(one["run"], one["overrides"], one["values"], one["failed"]) for one in shown["runs"]]
    return shown["best"], shown["trained_steps"], shown["importance"], trials


def asked(model: Path, trials: int, steps: int) -> list[str]:
    values = settings(f"model.name={model}", *FIXED, f"training.max_steps={steps}", *SEARCHED)
    return ["--level", "B1", *values, "--trials", str(trials)]


def test_a_search_chooses_without_the_evaluation_set(tiny_model: Path, tmp_path: Path) -> None:
    """To its first choice, with no controller while the trials train: the evaluation set is out of the store by then."""
    store = tmp_path / "store"
    search(store, *asked(tiny_model, trials=2, steps=6))
    held_out = evaluation_set(store)
    unseen, seen = sentences(held_out), sentences(trial_data(store))
    assert unseen
    assert not unseen & seen
    held_out.rename(tmp_path / "away")
    until(lambda: all(is_paused(store, trial) for trial in (1, 2)))
    until(lambda: states(store) == ["PAUSED", "PAUSED"])  # their processes have ended, too
    assert "2 of 2 trials compared" in search(store, "--resume", STUDY)

    choice = read(store / "studies" / STUDY, "choices/round-1-rung-1.json")
    losses = {str(n): read(store / "runs" / f"{STUDY}-t{n}", "rungs/step-2.json")["losses"] for n in (1, 2)}
    assert choice["values"] == {trial: found["response"]["loss"] for trial, found in losses.items()}
    best = min(choice["values"], key=choice["values"].get)
    assert choice["promoted"] == [int(best)]
    cefr_batch("cancel", f"{STUDY}-t{best}", store=store)
    until(lambda: sorted(states(store)) == ["CANCELLED", "PAUSED"])


@pytest.mark.skipif(not os.environ.get("CEFR_BATCH_TEST_LONG"), reason="takes many minutes: make e2e-long")
def test_a_search_that_is_killed_five_times_is_the_same_search(tiny_model: Path, tmp_path: Path) -> None:
    """Until all is chosen the evaluation set is out of the store: neither the controller nor a job misses it."""
    store, words = tmp_path / "store", asked(tiny_model, trials=9, steps=36)
    study, runs = store / "studies" / STUDY, store / "runs"
    moments: list[Callable[[], bool]] = [
        (study / "trials" / "4.json").is_file,
        (runs / f"{STUDY}-t2" / "rungs" / "step-4.json").is_file,
        (study / "choices" / "round-1-rung-1.json").is_file,
        lambda: len(list(runs.glob("*/rungs/step-12.json"))) >= 2,
        (study / "choices" / "round-1-rung-2.json").is_file,
    ]
    controller = start(store, *words)
    for moment in moments:
        kill_when(controller, moment)
        if evaluation_set(store).exists():
            evaluation_set(store).rename(tmp_path / "away")
        controller = start(store, "--resume", STUDY)
    output, _ = controller.communicate()
    assert controller.returncode == 1, output
    assert evaluation_set(store).name in output
    assert (study / "choices" / "round-1-rung-3.json").is_file()
    (tmp_path / "away").rename(evaluation_set(store))
    search(store, "--resume", STUDY, "--wait")

    best, steps, _, trials = outcome(store)
    print(f"{steps} of {9 * 36} steps ({100 * steps / (9 * 36):.0f} %)")
    assert steps <= 0.45 * 9 * 36
    assert len(trials) == 9
    assert_evaluated_once(store, best)
    assert_nothing_repeated(store)
    assert_best_is_a_job_file(store, tmp_path / "best.yaml")
    assert (store / "runs" / best / layout.ADAPTER_WEIGHTS).read_bytes() == straight(tmp_path / "straight", store, best)

    undisturbed = tmp_path / "undisturbed"
    search(undisturbed, *words, "--wait")
    assert outcome(undisturbed) == outcome(store)


def sentences(dataset: Path) -> set[str]:
    """All sentences of a stored dataset, read from its files alone."""
    examples = [one for name in ("train.json", "eval.json") for one in json.loads((dataset / name).read_text())]
    return {line.partition(". ")[2].casefold() for one in examples for line in one["output"].splitlines()}


def assert_evaluated_once(store: Path, best: str) -> None:
    """The best trial alone was evaluated on the evaluation set, and once."""
    requests = list((store / "runs").glob("*/evaluations/job/request.json"))
    assert [path.parents[2].name for path in requests] == [best]
    assert len(list((store / "runs" / best / "evaluations").glob("tuned-on-b1-*.json"))) == 1


def assert_nothing_repeated(store: Path) -> None:
    attempts = [json.loads(path.read_text()) for path in (store / "runs").glob("*/attempts/*.json")]
    assert attempts
    assert all(attempt["repeated_steps"] == 0 for attempt in attempts)


def assert_best_is_a_job_file(store: Path, file: Path) -> None:
    file.write_text(search(store, "best", STUDY), encoding="utf-8")
    shown = cefr_batch("submit", "--level", "B1", "--profile", str(file), "--dry-run", "--json", store=store)
    assert json.loads(shown)["runs"] == ["tiny-llama-b1-peft-v1"]


def straight(folder: Path, store: Path, run: str) -> bytes:
    """The adapter of a trial's recorded settings and data, trained without a pause."""
    work = WorkDir(folder)
    spec = read(store / "runs" / run, layout.SPEC)
    work.tmp.mkdir(parents=True)
    fetch_dataset(LocalStore(store), spec["dataset"], work.dataset)
    write_json(work.path(layout.SPEC), spec)
    output, _ = (process := start_training(work)).communicate()
    assert process.returncode == 0, output
    return adapter(work)
