"""What only some runs have: generated sentences, ratings, losses on seen and unseen sentences, provenance; broken runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from report_stores import (
    B1,
    add_complete,
    add_examples,
    add_generation,
    add_object,
    add_split,
    add_unfinished,
    full_report,
    three_levels,
)
from test_report import report_markdown

from cefr_batch import layout
from cefr_batch.cli.main import main
from cefr_batch.report.collect import Report, collect
from cefr_batch.report.write import FORMATS, pictures, render
from cefr_batch.store.local import LocalStore

RUN = "llama1b-b1-unsloth-v1"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "store")
    add_complete(store, RUN, "B1", B1)
    return store


def row(text: str, label: str) -> list[str]:
    (line,) = re.findall(rf"^\| {re.escape(label)} +\|(.*)\|$", text, re.MULTILINE)
    return [cell.strip() for cell in line.split(" | ")]


def test_generated_sentences_are_counted_and_some_shown_by_rule(store: LocalStore) -> None:
    add_generation(store, RUN, "B1")
    text = report_markdown(collect(store))
    assert row(text, "Format kept: numbered sentences, one a word, in order") == ["50.0%", "100.0%", "0.0%", "95.5%"]
    assert row(text, "Readability (ARI, US school grade)") == ["–", "–", "–", "–"]
    samples = text[text.index("#### Samples side by side") :].splitlines()
    assert [line.split(" | ")[1:] for line in samples[6:8]] == [
        ["I travel by train.", "I travel by train. |"],
        ["–                 ", "I travel by train. |"],
    ]


def test_a_run_that_generated_nothing_has_no_section_of_it(store: LocalStore) -> None:
    assert "Generated sentences" not in report_markdown(collect(store))


def test_the_loss_on_unseen_sentences_stands_beside_where_the_split_leaks(store: LocalStore) -> None:
    assert "Sentences not seen in training" not in report_markdown(collect(store))
    add_split(store, RUN)
    text = report_markdown(collect(store))
    assert row(text, "Sentences seen in training")[:3] == ["2.00", "0.50", "**75.0%**"]
    assert row(text, "Sentences not seen in training")[:3] == ["2.10", "1.60", "**23.8%**"]
    assert "The sentences that were not seen in training have 310 tokens, the seen ones 24,000" in text


def test_where_a_run_comes_from(store: LocalStore) -> None:
    add_object(store, RUN, layout.attempt_name(3), {"attempt": 3, "image": "docker://example.org/cefr@sha256:abc"})
    made = store.get_json(layout.run_key(RUN, layout.METRICS))
    store.put_json(layout.run_key(RUN, layout.METRICS), {**made, "repeated_steps": 29, "model_revision": "4e20de3"})
    text = report_markdown(collect(store))
    assert row(text, "Code") == ["cefr-batch 0.1.0"]
    assert row(text, "Container image") == ["`docker://example.org/cefr@sha256:abc`"]
    assert row(text, "Model revision") == ["`4e20de3`"]
    assert row(text, "Training data, SHA-256") == [f"`{'0' * 64}`"]
    assert row(text, "Libraries") == ["torch 2.9.0, transformers 5.15.0"]
    assert row(text, "Restarts") == ["3 attempts, 29 training steps were repeated, about 40 s"]


def test_ratings_are_shown_where_people_gave_some(store: LocalStore) -> None:
    from cefr_batch.rating.criteria import CRITERIA
    from cefr_batch.rating.scores import Agreement, Difference, Interval, Ratings, Score

    scores = [Score(RUN, model, c, mean, Interval(mean - 0.25, mean + 0.25), 12, 36)
              for model, mean in (("baseline", 2.0), ("tuned", 4.5)) for c in CRITERIA]  # fmt: skip
    gains = [Difference(RUN, c, 2.5, Interval(2.1, 2.9), 12) for c in CRITERIA]
    agreement = [Agreement(c, alpha, 12) for c, alpha in zip(CRITERIA, (0.81, None, 0.5, 1.0), strict=True)]
    ratings = Ratings(3, 24, tuple(scores), tuple(gains), tuple(agreement))
    found = collect(store)
    text = report_markdown(Report(found.store, found.entries, ratings))
    assert "3 raters gave marks from 1 to 5 to 24 sentences" in text
    line = "| Word usage            | 2.00 (1.75 … 2.25) | 4.50 (4.25 … 4.75) | 2.50 (2.10 … 2.90) |"
    assert line in text
    assert row(text, "Level appropriateness") == ["–", "12"]
    assert "Human evaluation" not in report_markdown(found)


def test_ratings_that_cannot_be_read_are_said_and_the_rest_is_reported(store: LocalStore) -> None:
    store.put(layout.rating_key("0123456789ab"), b"{")
    text = report_markdown(collect(store))
    assert "⚠ The ratings cannot be read: " in text
    assert "Loss reduction" in text


# A store in which much is broken.


def broken(folder: Path) -> LocalStore:
    """One level complete; every other one with a run that is missing something, failed or is running."""
    store = full_report(LocalStore(folder))
    for level, missing in (("a1", layout.METRICS), ("a2", layout.SPEC)):
        for run in [name for name in store.folders("runs/") if f"-{level}-" in name]:
            store.delete(layout.run_key(run, missing))
    add_unfinished(store, "llama1b-c1-unsloth-v1", "C1", "PREEMPTED")
    store.put("runs/llama1b-c1-unsloth-v2/plots/training_loss.png", b"left over")
    store.put("runs/Not A Run/spec.json", b"{}")
    return store


@pytest.mark.parametrize("language", ["en", "tr"])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_store_with_broken_runs_gives_a_report_that_says_so(
    tmp_path: Path, kind: str, language: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = broken(tmp_path / "store")
    assert main(["report", "--store", store.url, "--format", kind, "--lang", language]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for run in ("llama1b-a1-unsloth-v1", "llama1b-a2-unsloth-v2", "llama1b-b2-unsloth-v1", "llama1b-c1-unsloth-v2"):
        assert run in out
    assert "metrics.json is missing" in out


def test_a_single_level_has_no_picture_of_all_levels(store: LocalStore, tmp_path: Path) -> None:
    assert pictures(collect(store)) == {}
    assert sorted(pictures(collect(three_levels(tmp_path / "three")))) == ["levels_grid.png", "levels_overlay.png"]


def test_markdown_shows_the_pictures_that_lie_beside_it(tmp_path: Path) -> None:
    report = collect(three_levels(tmp_path))
    assert "levels_grid.png" not in render(report, "md", "en").decode()
    text = render(report, "md", "tr", pictures=True).decode()
    assert "![A1, A2, B1 için değerlendirme kaybı, tek grafikte](levels_overlay.png)" in text


def test_an_interval_over_few_examples_is_said_to_be_narrow(store: LocalStore) -> None:
    add_examples(store, RUN, [200.0, 210.0, 190.0], [50.0, 60.0, 40.0], sha256="x")
    assert "B1: measured on fewer than 20 examples" in report_markdown(collect(store))
