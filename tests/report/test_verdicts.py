"""Whether a model writes at its level: that the report says it, in every format, and says only what the figures bear."""

from __future__ import annotations

import csv
import io
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.level_stores import add_texts, in_lists, measured_store, sentences
from support.report_stores import A1, B1, add_complete, add_generation, three_levels

from cefr_batch.evaluation.level_estimator import level_estimator
from cefr_batch.records import layout
from cefr_batch.records.level_figures import LevelFigures, LevelGap, TextLevels, WithInterval
from cefr_batch.report.as_csv import report_csv
from cefr_batch.report.as_json import report_json
from cefr_batch.report.collect import Report, collect
from cefr_batch.report.compare import compare
from cefr_batch.report.pictures import pictures
from cefr_batch.report.verdicts import Verdict, _nearest, cards, judge
from cefr_batch.report.write import render
from cefr_batch.store.local import LocalStore

RUN = "llama1b-b1-unsloth-v1"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return collect(measured_store(LocalStore(tmp_path_factory.mktemp("store"))))


def test_a_b1_model_that_writes_a1_is_called_so_first_thing(report: Report) -> None:
    text = render(report, "md", "en").decode()
    opening = text[: text.index("## Levels measured")]
    assert "- **A1: writes at its level**. " in opening
    assert "- **A2: writes at its level**. " in opening
    assert re.search(r"^- \*\*B1: writes A1, not B1\*\*\. −[01]\.\d\d levels from", opening, re.MULTILINE)
    assert "Loss over the response: 2.00 → 0.51, 74.6% lower (95% interval of the reduction 74." in opening
    assert "So it writes **below its level**, by " in opening
    assert "**This model writes A1, not B1.**" in opening
    assert text.startswith("# CEFR fine-tuning results\n\n## Does each model write at its level?\n\n- **A1")


def test_levels_whose_sentences_measure_alike_are_named(report: Report) -> None:
    text = render(report, "md", "en").decode()
    said = "Sentences of {} measure less than half a level from those of {}, so the report cannot tell the two levels apart."
    assert said.format("A1", "A2") in text
    assert said.format("A2", "A1") in text
    assert said.format("A2", "B1") not in text


def test_a_model_that_does_not_do_its_task_is_said_so_beside_the_verdict(tmp_path: Path) -> None:
    store = three_levels(tmp_path)
    add_generation(store, RUN, "B1")
    made = store.get_json(layout.run_key(RUN, layout.METRICS))
    made["generation"]["tuned"]["greedy"] |= {"words_used_percent": 55.6, "well_formed_percent": 79.9}
    store.put_json(layout.run_key(RUN, layout.METRICS), made)
    opening = render(collect(store), "md", "en").decode().partition("## What the losses are")[0]
    assert opening.count("**It uses only 55.6% of the words that it was given.**") == 2  # the line, and the card
    assert opening.count("**Only 79.9% of its answers have the format of the examples.**") == 2


def test_in_turkish_too(report: Report) -> None:
    text = render(report, "md", "tr").decode()
    assert "- **B1: B1 değil, A1 düzeyinde yazıyor**. " in text
    assert "cümlelerinin, düzeyin kendi cümlelerinden farkı −" in text
    assert "model B1 değil, A1 düzeyinde yazıyor.**" in text
    assert "- **A2: kendi düzeyinde yazıyor**. " in text


def test_json_and_csv_have_the_figures_that_plain_code_computes(report: Report) -> None:
    document = report_json(report)
    assert [one["verdict"] for one in document["verdicts"]] == ["at its level", "at its level", "below its level"]
    assert [one["nearest_level"] for one in document["verdicts"]] == [None, None, "A1"]
    rows = list(csv.DictReader(io.StringIO(report_csv(report).decode())))
    for number, (entry, row) in enumerate(zip(document["levels"], rows, strict=True), 1):
        figures = entry["result"]["level_figures"]["tuned"]["greedy"]
        own = estimates(sentences(entry["level"])[90:])
        written = estimates(sentences(entry["level"] if number < 3 else "A1")[:90])
        check(figures["written"], written, number)
        check(figures["references"], own, number)
        difference = written.mean() - own.mean()
        assert figures["gap"]["mean_difference"]["value"] == pytest.approx(difference, abs=1e-9)
        distance = np.abs(np.sort(written) - np.sort(own)).mean()  # of samples of one size
        assert figures["gap"]["wasserstein"]["value"] == pytest.approx(distance, abs=1e-9)
        assert float(row["tuned_level_difference"]) == pytest.approx(difference, abs=1e-9)
        assert float(row["tuned_level_wasserstein"]) == pytest.approx(distance, abs=1e-9)
        assert float(row["references_mean_level"]) == pytest.approx(own.mean(), abs=1e-9)
        assert float(row["tuned_level_rmse"]) == pytest.approx(rmse(written, number), abs=1e-9)
        low, value, high = (float(row[f"tuned_mean_level{end}"]) for end in ("_95_low", "", "_95_high"))
        assert low < value < high
        assert row["zero_shot_mean_level"] == ""


def estimates(texts: list[str]) -> Any:
    return level_estimator().estimate(texts)


def rmse(values: Any, target: int) -> float:
    return math.sqrt(float(((values - target) ** 2).mean()))


def check(figures: dict[str, Any], values: Any, target: int) -> None:
    assert figures["sentences"] == len(values)
    assert figures["mean"]["value"] == pytest.approx(float(values.mean()), abs=1e-9)
    assert figures["rmse"]["value"] == pytest.approx(rmse(values, target), abs=1e-9)
    for name, limit in (("within_half_percent", 0.5), ("within_one_percent", 1.0)):
        assert figures[name]["value"] == pytest.approx(100 * float((np.abs(values - target) <= limit).mean()), abs=1e-9)
    for number, share in enumerate(figures["level_percent"].values(), 1):
        near = (values >= number - 0.5) & (values < number + 0.5)
        assert share["value"] == pytest.approx(100 * float(near.mean()), abs=1e-9)


def test_all_models_that_wrote_stand_in_one_table_with_the_same_figures(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    add_complete(store, RUN, "B1", B1)
    answers = {level: in_lists(sentences(level)[:60], 6) for level in ("A1", "A2", "B1", "B2")}
    add_texts(store, RUN, answers["B1"], answers["B2"], answers["B1"], zero_shot=answers["A2"], few_shot=answers["A1"])
    text = render(collect(store), "md", "en").decode()
    lines = text[text.index("| Level | Written by") :].partition("\n\n")[0].splitlines()[2:]
    assert [line.split("|")[2].strip() for line in lines] == [
        "Untrained, asked as in training",
        "Untrained, asked in plain words",
        "Untrained, with three examples",
        "Tuned",
        "The level's own sentences",
    ]
    for line, level in zip(lines, ("B2", "A2", "A1", "B1", "B1"), strict=True):
        assert f"| {estimates(sentences(level)[:60]).mean():.2f} (" in line
    said = "This rests on only 10 answers, so it is rough: other answers may give another verdict."
    assert text.count(said) == 2  # in the opening line and on the card


@pytest.mark.slow
def test_the_heat_map_has_a_row_for_each_target_and_shades_for_its_shares(report: Report) -> None:
    page = render(report, "html", "en").decode()
    rows = page[page.index("Share of the sentences by estimated level") :].partition("</table>")[0]
    assert rows.count("<tr") == 7
    assert re.search('class="number heat(9|10)"', rows)  # nearly all of B1's own sentences measure B1
    assert 'class="number heat0"' in rows
    drawn, again, turkish = (_measured(pictures(report, language)) for language in ("en", "en", "tr"))
    assert sorted(drawn) == [
        f"level_{of}.{kind}" for of in ("distributions", "heat_map") for kind in ("pdf", "png", "svg")
    ]
    for name in drawn:
        assert drawn[name] == again[name] != turkish[name], name
    for name in [name for name in drawn if name.endswith(".png")]:
        assert dots_per_metre(drawn[name]) == round(300 / 0.0254)
        assert f"]({name})" in render(report, "md", "en", shown=list(drawn)).decode()


def _measured(drawn: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in drawn.items() if name.startswith("level_")}


def dots_per_metre(png: bytes) -> int:
    start = png.index(b"pHYs") + 4
    return int(struct.unpack(">I", png[start : start + 4])[0])


def test_a_run_without_texts_or_references_is_said_not_to_be_measured(tmp_path: Path) -> None:
    store = three_levels(tmp_path)
    add_generation(store, RUN, "B1")
    opening = render(collect(store), "md", "en").decode().partition("## What the losses are")[0]
    assert "**A1: no generated sentences, so not measured**" in opening
    assert "**B1: nothing to compare with**" in opening
    assert "It uses only" not in opening
    assert "The level's evaluation sentences are not in the store" in opening


def test_an_evaluation_file_that_is_not_the_runs_is_not_compared_with(tmp_path: Path) -> None:
    store = measured_store(LocalStore(tmp_path))
    store.put("datasets/" + "b1" * 32 + "/eval.json", b"[]\n")
    report = collect(store)
    found = {card.label: card.verdict for card in cards(report, compare(report))}
    assert found["B1"] is Verdict.NO_REFERENCES
    assert found["A2"] is Verdict.AT


def test_few_answers_and_answers_without_a_sentence_are_said_so(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    own = in_lists(sentences("A1"), 5)
    add_complete(store, "llama1b-a1-peft-v1", "A1", A1)
    add_texts(store, "llama1b-a1-peft-v1", own[:3], own[:3], own)
    add_complete(store, RUN, "B1", B1)
    add_texts(store, RUN, [[], [], []], own[:3], own)
    text = render(collect(store), "md", "en").decode()
    assert "**A1: too few answers to tell**" in text
    assert "**too few answers or evaluation sentences to tell**" in text
    assert "**B1: wrote nothing that can be measured**" in text


def test_each_row_says_how_many_answers_or_examples_it_is_from(tmp_path: Path) -> None:
    """A difference that rests on fewer than five answers is not bold, however narrow its interval."""
    store = LocalStore(tmp_path)
    own, other = in_lists(sentences("A1"), 5), in_lists(sentences("C1"), 5)
    add_complete(store, "llama1b-a1-peft-v1", "A1", A1)
    add_texts(store, "llama1b-a1-peft-v1", own[:6], [*other[:4], [], []], [*own, own[0]], zero_shot=other[:6])
    whole = render(collect(store), "md", "en").decode()
    text = whole.split("## Levels measured")[1].split("## ")[0]
    rows = {cells[1]: cells[2:] for line in text.splitlines() if len(cells := re.split(r" *\| *", line)[1:-1]) > 8}
    assert rows["Tuned"][0] == "6 answers"
    assert rows["Untrained, asked as in training"][0] == "4 of 6 answers"
    assert re.search(r"; the untrained model's [^;]* \(few answers could be measured: 4 of 6\)\.", whole)
    assert rows["The level's own sentences"][0] == f"{len(own) + 1} examples, {5 * len(own)} different sentences"
    assert not rows["Untrained, asked as in training"][6].startswith("**")
    assert rows["Untrained, asked in plain words"][6].startswith("**")
    assert "rests on only" not in text


def figures(low: float, high: float, distance: float = 0.1, units: int = 20) -> LevelFigures:
    none = WithInterval(value=0.0)
    texts = TextLevels(
        texts=units, measured_texts=units, units=units, sentences=units, mean=none, level_percent={},
        histogram=[units] + [0] * 19, rmse=none, within_half_percent=none, within_one_percent=none,
    )  # fmt: skip
    gap = LevelGap(
        mean_difference=WithInterval(value=(low + high) / 2, low=low, high=high),
        wasserstein=WithInterval(value=distance, low=distance, high=distance),
    )
    return LevelFigures(target="B1", written=texts, references=texts, gap=gap)


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (None, Verdict.NO_TEXTS),
        (figures(-0.2, -0.01), Verdict.BELOW),
        (figures(-0.15, -0.01), Verdict.SLIGHTLY_BELOW),
        (figures(0.01, 0.15), Verdict.SLIGHTLY_ABOVE),
        (figures(0.01, 0.2), Verdict.ABOVE),
        (figures(-0.1, 0.2), Verdict.AT),
        (figures(-0.1, 0.5), Verdict.UNCERTAIN),
        (figures(-0.6, 0.1), Verdict.UNCERTAIN),
        (figures(-0.1, 0.2, distance=0.6), Verdict.MIXED),
        (figures(-2.0, -1.0, units=4), Verdict.TOO_FEW),
    ],
)
def test_the_verdict_follows_from_the_intervals(given: LevelFigures | None, verdict: Verdict) -> None:
    assert judge(given) is verdict


@pytest.mark.parametrize(("b1", "named"), [(2.01, None), (2.4, None), (2.45, "A1")])
def test_a_level_that_measures_like_the_models_own_is_not_named(b1: float, named: str | None) -> None:
    """Somebody's B1 sentences may measure like A1: then sentences a little below them are not those of A1."""
    assert _nearest(1.87, {"A1": 1.94, "A2": 2.9, "B1": b1}, "B1") == named
