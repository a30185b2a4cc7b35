"""Must show: the first report's own figures, fed in as results, give its comparison table digit for digit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.report_stores import A1, A2, B1, add_complete, report_markdown

from cefr_batch.config.load import load_spec
from cefr_batch.report.collect import collect
from cefr_batch.store.local import LocalStore

# "A1 vs A2 vs B1 Comprehensive Comparison" as it was published; ~ where it rounded, ⭐ for the best.
PUBLISHED = """\
| **Train Examples** | 160 | 1,800 | 1,800 |
| **Unique Words** | ~178 | 867 | 806 |
| **Max Token Length** | ~230 | ~231 | ~290 |
| **Loss Reduction** | ~65% | 67.4% | **68.7%** ⭐ |
| **Perplexity Reduction** | ~77% | 79.1% | **79.9%** ⭐ |
| **Training Time** | ~5 min | ~6 min | ~7 min |
| **Final Train Loss** | 0.41 | 0.38 | **0.34** ⭐ |
| **Best Eval Loss** | 0.57 | 0.51 | **0.43** ⭐ |"""

ROWS = {  # our name of the row; its reductions were computed by the first report's protocol
    "Train Examples": "Train examples",
    "Unique Words": "Unique words",
    "Max Token Length": "Max token length",
    "Loss Reduction": "Loss reduction, first report's protocol",
    "Perplexity Reduction": "Perplexity reduction, first report's protocol",
    "Training Time": "Training time",
    "Final Train Loss": "Final train loss",
    "Best Eval Loss": "Best eval loss",
}

# What it published, as results: B1's losses stand in it (2.34, 0.73), the others' give its percentages.
RESULTS = {
    "A1": replace(A1, seed_protocol=(2.261, 0.7914), seconds=301.0),
    "A2": replace(A2, seed_protocol=(2.3226, 0.7572), seconds=358.0),
    "B1": B1,
}


def cells(line: str) -> list[str]:
    return [cell.strip().replace("\\~", "~") for cell in line.strip("|\n ").split("|")]


def table(text: str, title: str) -> dict[str, list[str]]:
    part = text[text.index(title) :]
    rows = re.findall(r"^\|.*\|$", part.split("\n\n### ")[0].split("\n\n★")[0], re.MULTILINE)
    return {name: values for name, *values in map(cells, rows)}


@pytest.fixture
def report(tmp_path: Path) -> str:
    store = LocalStore(tmp_path)
    for level, figures in RESULTS.items():
        reference = load_spec(level).model_dump(mode="json")["reference"]
        add_complete(store, f"llama1b-{level.lower()}-unsloth-v1", level, figures, reference=reference)
    return report_markdown(collect(store))


def same_digits(ours: str, published: str) -> bool:
    """The same text; a rounded figure (~) to as many digits as it has, a time in whole minutes."""
    ours, published = ours.replace("★", "⭐"), published.strip()
    if not published.startswith("~"):
        return ours == published
    minutes = re.fullmatch(r"(\d+) min(?: (\d+) s)?", ours)
    value = float(minutes[1]) + float(minutes[2] or 0) / 60 if minutes else float(ours.rstrip("%"))
    return f"{value:.0f}" == re.sub(r"[^0-9]", "", published)


def test_the_table_comes_out_digit_for_digit(report: str) -> None:
    ours = table(report, "## Comparison")
    published = {name.strip("*"): values for name, *values in map(cells, PUBLISHED.splitlines())}
    assert len(published) == len(ROWS) == 8
    wrong = [
        f"{name}: {own} for {other}"
        for name, values in published.items()
        for own, other in zip(ours[ROWS[name]], values, strict=True)
        if not same_digits(own, other)
    ]
    assert wrong == []


def test_the_published_figures_stand_beside_as_they_were_published(report: str) -> None:
    beside = table(report, "### Compared with published figures")
    assert beside["Metric"] == ["A1", "A1, published", "A2", "A2, published", "B1", "B1, published"]
    for name, *values in map(cells, PUBLISHED.splitlines()):
        plain = [value.replace("*", "").replace("⭐", "").strip() for value in values]
        assert beside[ROWS[name.strip("*")]][1::2] == plain
    assert "Published in: B1 Level Fine-Tuning Results, 26 October 2025." in report


@pytest.mark.parametrize("data", [{"train_examples": 1799}, {"unique_words": 2400}, {"train_examples": 90}])
def test_published_figures_stand_beside_no_other_data(data: dict[str, int], tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    reference = load_spec("B1").model_dump(mode="json")["reference"]
    examples = (data.get("train_examples", B1.examples[0]), B1.examples[1])
    other = replace(B1, examples=examples, words=data.get("unique_words", B1.words))
    add_complete(store, "llama1b-b1-unsloth-v1", "B1", other, reference=reference)
    text = report_markdown(collect(store))
    assert "published figures" not in text
    assert "B1 Level Fine-Tuning Results" not in text


def test_published_figures_that_were_rounded_may_be_a_little_off(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    reference = load_spec("A1").model_dump(mode="json")["reference"]
    for version, words in enumerate((175, 500), 1):
        folder = f"llama1b-a1-unsloth-v{version}"
        add_complete(store, folder, "A1", replace(A1, words=words), reference=reference)
    assert "published figures" in report_markdown(collect(store, runs=["llama1b-a1-unsloth-v1"]))
    assert "published figures" not in report_markdown(collect(store, runs=["llama1b-a1-unsloth-v2"]))
