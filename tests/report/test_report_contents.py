"""What only some runs have: generated sentences, ratings, losses on seen and unseen sentences, provenance; broken runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.report_stores import (
    B1,
    add_complete,
    add_examples,
    add_generation,
    add_object,
    add_split,
    add_unfinished,
    full_report,
    report_markdown,
    three_levels,
)

from cefr_batch.cli.main import main
from cefr_batch.records import layout
from cefr_batch.report.collect import Report, collect
from cefr_batch.report.pictures import pictures
from cefr_batch.report.write import FORMATS, render
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
    assert row(text, "Format followed: numbered sentences, one per word, in order") == [
        "50.0%",
        "100.0%",
        "0.0%",
        "95.5%",
    ]
    assert row(text, "Readability (ARI, US school grade)") == ["–", "–", "–", "–"]
    samples = text[text.index("#### Samples side by side") :].splitlines()
    assert [line.split(" | ")[1:] for line in samples[6:8]] == [
        ["I travel by train.", "I travel by train. |"],
        ["–                 ", "I travel by train. |"],
    ]


def test_other_ways_of_asking_the_untrained_model_stand_beside_and_what_is_missing_is_said(store: LocalStore) -> None:
    """A table for each way of generating, since there are more columns."""
    add_generation(store, RUN, "B1")
    key, texts_key = layout.run_key(RUN, layout.METRICS), layout.run_key(RUN, layout.GENERATION)
    metrics, texts = store.get_json(key), store.get_json(texts_key)
    metrics["generation"] |= {"zero_shot": metrics["generation"]["tuned"], "missing": {"few_shot": "too_long"}}
    texts["examples"][0]["zero_shot"] = {"greedy": "1. You travel.", "sampled": "x"}
    store.put_json(key, metrics)
    add_object(store, RUN, layout.GENERATION, texts)
    text = report_markdown(collect(store))
    greedy, sampled = re.findall(r"^\| Format followed.*", text, re.MULTILINE)
    assert [cell.strip() for cell in greedy.split("|")[2:-1]] == ["50.0%", "100.0%", "100.0%"]
    assert [cell.strip() for cell in sampled.split("|")[2:-1]] == ["0.0%", "95.5%", "95.5%"]
    heads = re.findall(r"^\| Measure +\|.*", text, re.MULTILINE)[-2:]
    ways = ["Untrained, asked as in training", "Untrained, asked in plain words", "Tuned"]
    assert [[cell.strip() for cell in head.split("|")[2:-1]] for head in heads] == [ways, ways]
    reason = "missing, since the prompt and its answer are longer than what the model can read."
    assert f"\nUntrained, with three examples: {reason}\n" in text
    samples = text[text.index("#### Samples side by side") :].splitlines()
    assert [cell.strip() for cell in samples[4].split("|")[1:-1]] == ["Word", "Baseline", ways[1], "Tuned"]
    assert [cell.strip() for cell in samples[6].split("|")[3:5]] == ["You travel.", "I travel by train."]
    assert samples[7].split("|")[3].strip() == "–", "this example was not answered so"


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
    where = {"host": "node", "pid": 7, "started_at": "2025-10-26T12:00:00+00:00"}
    attempt = {"attempt": 3, "image": "docker://example.org/cefr@sha256:abc", **where}
    add_object(store, RUN, layout.attempt_name(3), attempt)
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
    from cefr_batch.evaluation.bootstrap import Interval
    from cefr_batch.human_eval.criteria import CRITERIA
    from cefr_batch.human_eval.scores import Agreement, MarkDifference, MeanMark, Ratings

    scores = [MeanMark(RUN, model, c, mean, Interval(mean - 0.25, mean + 0.25), 12, 36)
              for model, mean in (("baseline", 2.0), ("tuned", 4.5)) for c in CRITERIA]  # fmt: skip
    gains = [MarkDifference(RUN, c, 2.5, Interval(2.1, 2.9), 12) for c in CRITERIA]
    agreement = [Agreement(c, alpha, 12) for c, alpha in zip(CRITERIA, (0.81, None, 0.5, 1.0), strict=True)]
    ratings = Ratings(3, 24, tuple(scores), tuple(gains), tuple(agreement))
    found = collect(store)
    text = report_markdown(Report(found.store, found.entries, ratings))
    assert "24 sentences got a mark or a level from people who did not know which model wrote them (raters: 3)." in text
    line = "| Word usage            | 2.00 (1.75 … 2.25) | 4.50 (4.25 … 4.75) | 2.50 (2.10 … 2.90) |"
    assert line in text
    assert row(text, "Level appropriateness") == ["–", "12"]
    assert "Human evaluation" not in report_markdown(found)


def test_rated_levels_are_shown_beside_the_target_the_raters_and_the_estimator(store: LocalStore) -> None:
    from cefr_batch.evaluation.bootstrap import Interval
    from cefr_batch.human_eval.level_scores import (
        DistanceToTarget,
        EstimatorAgreement,
        Figure,
        KappaWithTarget,
        LevelScores,
        RaterAgreement,
    )
    from cefr_batch.human_eval.scores import Ratings

    def figure(value: float) -> Figure:
        return Figure(value, Interval(value - 0.1, value + 0.1))

    levels = LevelScores(
        raters=3,
        sentences=24,
        judgements=70,
        qualifications={"examiner": 2},
        distances=(DistanceToTarget(RUN, "B1", "tuned", 12, 2.85, figure(-0.15), figure(0.5)),),
        kappas=(KappaWithTarget("baseline", 35, None), KappaWithTarget("tuned", 35, figure(0.6))),
        agreement=RaterAgreement(24, 0.72, 0.7, 3),
        estimator=EstimatorAgreement(24, 70, figure(0.2), figure(0.6), figure(0.7), figure(0.5)),
    )
    found = collect(store)
    ratings = Ratings(3, 24, (), (), (), levels)
    text = report_markdown(Report(found.store, found.entries, ratings))
    said = "sentences differ from B1 by −0.15 on average (95% interval −0.25 … −0.05)."
    assert text.count(said) == 2  # in the first lines, and on the card
    assert "The raters' experience, as they state it: trained in rating by CEFR levels: 2." in text
    assert row(text, f"`{RUN}`") == ["B1", "Tuned", "12", "2.85", "−0.15 (−0.25 … −0.05)", "0.50 (0.40 … 0.60)"]
    assert row(text, "Raters and target, Baseline: weighted kappa") == ["–", "judgements: 35"]
    assert "The kappa of raters and target cannot be computed" in text
    assert "The raters' agreement on levels cannot" not in text
    assert row(text, "Raters and target, Tuned: weighted kappa") == ["0.60 (0.50 … 0.70)", "judgements: 35"]
    assert row(text, "Raters with each other: Krippendorff's alpha, levels as numbers") == ["0.72", "sentences: 24"]
    assert row(text, "Spearman's rank correlation") == ["0.70 (0.60 … 0.80)"]
    unmeasured = Report(found.store, found.entries, replace(ratings, levels=replace(levels, estimator=None)))
    assert "The level estimator is not installed where this report was made" in report_markdown(unmeasured)
    assert "Rated levels" not in report_markdown(Report(found.store, found.entries, replace(ratings, levels=None)))


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
    assert re.search(r"metrics\.json of \S+ is missing", out)


@pytest.mark.slow
def test_a_single_level_has_no_picture_of_all_levels(store: LocalStore, tmp_path: Path) -> None:
    assert pictures(collect(store), "en") == {}
    drawn = pictures(collect(three_levels(tmp_path / "three")), "en")
    assert sorted(drawn) == [f"levels_{name}.{kind}" for name in ("grid", "overlay") for kind in ("pdf", "png", "svg")]


def test_markdown_shows_the_pictures_that_lie_beside_it(tmp_path: Path) -> None:
    report = collect(three_levels(tmp_path))
    assert "levels_grid.png" not in render(report, "md", "en").decode()
    text = render(report, "md", "tr", shown=["levels_overlay.png"]).decode()
    assert "![A1, A2, B1 için değerlendirme kaybı, tek grafikte](levels_overlay.png)" in text


def test_an_interval_over_few_examples_is_said_to_be_narrow(store: LocalStore) -> None:
    add_examples(store, RUN, [200.0, 210.0, 190.0], [50.0, 60.0, 40.0], sha256="x")
    assert "Losses measured on fewer than 20 examples: B1 (3); with so few" in report_markdown(collect(store))


def test_exports_are_shown_with_what_their_verification_found(store: LocalStore) -> None:
    from support.exports import check, export_record

    from cefr_batch.records.exports import ExportCheck, GgufType, TextDifference

    tie = TextDifference(example=2, token=9, ours=" can", theirs=" have", our_gap=0.003, their_gap=0.0)
    found = check(equal_texts=17, differences=[tie] * 3, merged_loss=1.06101, exported_loss=1.06103)
    made: dict[GgufType, ExportCheck | None] = {"f16": found, "q8_0": None}
    for kind, checked in made.items():
        why = "" if checked else "llama.cpp is not installed here"
        record = export_record(RUN, kind, check=checked, not_verified=why)
        store.put_record(layout.run_key(RUN, layout.export_name(f"gguf-{kind}")), record)
    add_object(store, RUN, layout.METRICS, {**store.get_json(layout.run_key(RUN, layout.METRICS)), "export": FAILED})
    text = report_markdown(collect(store))
    assert row(text, "`gguf-f16`") == [
        "2.0 MB",
        "20 of 20",
        "17 of 20, 3 more except where two tokens are equally probable",
        "1.0610",
        "1.0610",
    ]
    assert row(text, "`gguf-q8_0`") == ["2.0 MB", "not verified", "–", "–", "–"]
    assert "`gguf-q8_0` is not verified: `llama.cpp is not installed here`" in text
    assert "`gguf-q4_k_m` was not exported: `no room`" in text


FAILED = {"made": ["f16"], "failed": {"gguf-q4_k_m": "no room"}}


def test_the_merged_models_type_is_told_with_what_rounding_costs(tmp_path: Path) -> None:
    tried = {"float16": 0.0004, "bfloat16": 0.0312}
    checked = {"adapter_loss": 2.5312, "exact_loss": 2.5312, "merged_loss": 2.5372, "examples": 16, "dtype": "float16"}
    texts = []
    kinds: list[dict[str, object]] = [{"tried": tried}, {"overflow": "weights"}, {"overflow": "outputs"}]
    for number, found in enumerate(kinds):
        store = LocalStore(tmp_path / f"store-{number}")
        add_complete(store, RUN, "B1", replace(B1, extra={"merge": {**checked, **found}}))
        texts.append(report_markdown(collect(store)))
    assert (
        "Its weights are in `float16`. Rounding to this type changes an example's loss by 0.0004 per token, rounding to "
        "`bfloat16` by 0.0312.\n"
    ) in texts[0]
    assert "Rounding its weights to 16 bits changed this loss by 0.0060" in texts[0]
    assert "Its weights are in `float16`. `float16` cannot hold some of them." in texts[1]
    assert "In `float16` the model would overflow while it computes." in texts[2]
