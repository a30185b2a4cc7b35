"""Several runs of a level, and the noise of the evaluation: which runs belong together, what is said, what changes it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.report_stores import A1, B1, add_complete, add_examples, add_unfinished, report_markdown, three_levels

from cefr_batch.config.load import load_spec
from cefr_batch.report.as_json import report_json
from cefr_batch.report.collect import Entry, collect
from cefr_batch.report.compare import compare
from cefr_batch.report.interpretation import interpret
from cefr_batch.report.markdown import ReportLanguage
from cefr_batch.store.local import LocalStore

FIRST, LATER, LATEST = (f"2025-10-{day}T08:00:00+00:00" for day in (26, 27, 28))


def run(version: int) -> str:
    return f"llama1b-b1-unsloth-v{version}"


def three_seeds(store: LocalStore) -> None:
    for version, tuned in ((1, 0.42), (2, 0.44), (3, 0.46)):
        figures = replace(B1, full=(1.8, tuned))
        add_complete(store, run(version), "B1", figures, at=LATER, training__seed=version)


def results(entry: Entry) -> list[str]:
    return [result.run for result in entry.results]


def test_runs_that_differ_in_their_seed_alone_are_one_column(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    three_seeds(store)
    (entry,) = collect(store).entries
    assert results(entry) == [run(3), run(2), run(1)]
    text = report_markdown(collect(store))
    # 100 (1 - x / 1.8): 76.67, 75.56, 74.44
    assert re.search(r"^\| Loss reduction, all tokens +\| +75\.6% ± 1\.1 \(n = 3\) \|$", text, re.MULTILINE)
    assert re.search(r"^\| Train examples +\| +1,800 \|$", text, re.MULTILINE)
    assert "| mean ± standard deviation |    – |" in text
    row = next(r for r in report_json(collect(store))["comparison"]["rows"] if r["key"] == "loss_reduction_percent")
    assert row["values"] == [pytest.approx(75.5556, abs=1e-4)]
    assert row["standard_deviations"] == [pytest.approx(1.1111, abs=1e-4)]
    assert row["runs"] == [3]


@pytest.mark.slow
def test_named_runs_are_brought_together_the_same_way(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    three_seeds(store)
    add_complete(store, run(4), "B1", B1, at=LATEST, training__epochs=3)
    entries = collect(store, runs=[run(1), run(3), run(4)]).entries
    assert [results(entry) for entry in entries] == [[run(3), run(1)], [run(4)]]


@pytest.mark.slow
def test_of_one_seed_the_newest_counts_and_of_other_settings_or_data_none(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    three_seeds(store)
    add_complete(store, run(4), "B1", B1, at=FIRST, training__seed=2)
    add_complete(store, run(5), "B1", B1, at=FIRST, training__seed=5, lora__rank=8)
    (entry,) = collect(store).entries
    assert results(entry) == [run(3), run(2), run(1)]


def test_a_published_figure_makes_no_other_run(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    three_seeds(store)
    reference = {"source": "a paper", "figures": {"train_examples": "1800"}}
    add_complete(store, run(4), "B1", B1, at=LATEST, training__seed=4, reference=reference)
    (entry,) = collect(store).entries
    assert len(entry.results) == 4


def test_settings_that_an_earlier_version_did_not_know_make_no_other_run(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    earlier = load_spec("B1").model_dump(mode="json", exclude_defaults=True)  # what came later has a default
    assert "loss_on" not in earlier["training"]
    later = load_spec("B1", overrides=["training.seed=2"]).model_dump(mode="json")
    other_level = "llama1b-a1-unsloth-v1"
    for name, level, settings in ((run(1), "B1", earlier), (run(2), "B1", later), (other_level, "A1", later)):
        add_complete(store, name, level, B1, at=LATER, **{key: settings[key] for key in settings if key != "level"})
    assert [results(entry) for entry in collect(store).entries] == [[other_level], [run(2), run(1)]]
    assert compare(collect(store, runs=[other_level, run(1)])).differing == {}


@pytest.mark.slow
def test_a_seed_that_failed_is_named_beside_the_others(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    three_seeds(store)
    add_unfinished(store, run(4), "B1", "FAILED", "no space left", at=FIRST, training__seed=4)
    add_unfinished(store, run(5), "B1", "FAILED", "old trouble", at=FIRST, training__seed=2)
    (entry,) = collect(store).entries
    assert (entry.state, [passed.run for passed in entry.passed]) == ("SUCCEEDED", [run(4)])
    text = report_markdown(collect(store))
    assert f"`{run(4)}`: **failed**: no space left" in text
    assert "old trouble" not in text
    assert "older run" not in text


# The noise of the evaluation.


def sums(n: int, loss: float, spread: float, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Summed losses of examples of 100 tokens that differ by ``spread``; their mean loss is ``loss``, exactly."""
    drawn = np.random.default_rng(seed).normal(0.0, spread, n)
    return np.asarray(100 * (loss + drawn - drawn.mean()))


def two_levels(folder: Path, spread: float) -> LocalStore:
    """A1's loss is reduced by 70.0 %, B1's by 71.5 %, over 100 examples that differ by ``spread``."""
    store = LocalStore(folder)
    for level, figures, tuned in (("A1", A1, 0.6), ("B1", B1, 0.57)):
        name = f"llama1b-{level.lower()}-unsloth-v1"
        made = replace(figures, full=(2.0, tuned), response=(2.0, tuned), leakage=(0.0, 100.0), examples=(1800, 100))
        add_complete(store, name, level, made)
        seed = ord(level[0])
        add_examples(store, name, sums(100, 2.0, 0.1, seed), sums(100, tuned, spread, seed + 1), sha256=level)
    return store


def sentences(store: LocalStore, language: str = "en") -> str:
    return "\n".join(interpret(compare(collect(store)), ReportLanguage(language)))


def test_the_reading_changes_with_the_intervals(tmp_path: Path) -> None:
    """The same two reductions: with examples much alike the difference is real, with unlike ones it may be chance."""
    certain, uncertain = (sentences(two_levels(tmp_path / str(s), s)) for s in (0.01, 0.4))
    assert "These differences are larger than the noise of the evaluation: B1 over A1 (1.5 points)." in certain
    assert "within the noise" not in certain
    assert "These are within the noise, so their order is not certain: B1 over A1 (1.5 points)." in uncertain
    assert "larger than the noise" not in uncertain


def test_without_single_losses_the_reading_says_that_it_does_not_know(tmp_path: Path) -> None:
    text = sentences(three_levels(tmp_path))
    assert "an interval needs the stored losses of at least two examples, so there is none" in text
    assert "It is not known whether these differences exceed noise" in text
    assert "larger than the noise" not in text


def test_a_change_that_may_be_chance_is_not_called_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    add_complete(store, run(1), "B1", replace(B1, full=(2.0, 1.99), response=(2.0, 1.99), examples=(1800, 50)))
    add_examples(store, run(1), sums(50, 2.0, 0.3, 1), sums(50, 1.99, 0.3, 2), sha256="B1")
    text = sentences(store)
    assert "whether fine-tuning changed the loss over the response is not certain" in text
    assert "lowered" not in text
    assert "includes 0" in text


def test_a_loss_that_rose_is_said_so(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    add_complete(store, run(1), "B1", replace(B1, full=(2.0, 2.5), response=(2.0, 2.5), examples=(1800, 50)))
    add_examples(store, run(1), sums(50, 2.0, 0.1, 1), sums(50, 2.5, 0.1, 2), sha256="B1")
    assert "fine-tuning raised the loss over the response by 25.0%" in sentences(store)


def test_intervals_stand_in_every_format(tmp_path: Path) -> None:
    report = collect(two_levels(tmp_path, 0.1))
    text = report_markdown(report)
    assert "| – its 95% interval" in text
    assert "### Which differences exceed noise" in text
    found = report_json(report)["comparison"]
    (difference,) = found["loss_reduction_differences"]
    assert (difference["higher"], difference["lower"], difference["paired"]) == ("B1", "A1", False)
    row = next(r for r in found["rows"] if r["key"] == "loss_reduction_percent")
    for value, limits in zip(row["values"], row["intervals_95_percent"], strict=True):
        assert limits["low"] < value < limits["high"]


def test_two_runs_on_the_same_examples_are_compared_in_pairs(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    hard = sums(100, 2.0, 0.4, 1)
    for version, share in ((1, 0.30), (2, 0.31)):
        figures = replace(B1, full=(2.0, 2.0 * share), examples=(1800, 100))
        add_complete(store, run(version), "B1", figures, training__epochs=version)
        add_examples(store, run(version), np.full(100, 200.0), hard * share, sha256="B1")
    (difference,) = compare(collect(store, runs=[run(1), run(2)])).differences["full"]
    assert difference.paired
    assert difference.exceeds_noise
    assert difference.points == pytest.approx(1.0)


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"examples": [{"tokens": {"full": 3}}]}'])
def test_single_losses_that_cannot_be_read_make_the_run_one_without_figures(tmp_path: Path, data: bytes) -> None:
    store = two_levels(tmp_path, 0.1)
    store.put(f"runs/{run(1)}/evaluation.json", data)
    report = collect(store)
    assert [bool(entry.results) for entry in report.entries] == [True, False]
    assert report.entries[1].reason.startswith(f"evaluation.json of {run(1)} cannot be read, so the run is left out")
    report_markdown(report, "tr")
