"""A report on real runs against figures that ``recomputed`` computes from what the runs left."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from support.recomputed import Recomputed, read, recompute

from cefr_batch.cli.main import main
from cefr_batch.config.schema import ModelSpec
from cefr_batch.models.resolve import resolve_model

CLOSE = 2e-4  # relative: single precision, other order of sums

Rows = list[list[str]]


def check_report(store: Path, levels: Sequence[str], out: Path) -> int:
    """Write the report of complete runs in both languages and compare every figure; return how many were compared."""
    chosen = [word for level in levels for word in ("--level", level)]
    for language in ("en", "tr"):
        command = ["report", *chosen, "--store", str(store), "--lang", language, "--out", str(out / language)]
        assert main(command) == 0
    rows = list(csv.DictReader(io.StringIO((out / "en" / "report.csv").read_text(encoding="utf-8"))))
    assert [row["level"] for row in rows] == list(levels)
    again = [recompute(store, row["run"], base_model(store, row["run"])) for row in rows]
    compared = sum(map(check_columns, rows, again)) + check_json(out / "en" / "report.json", rows)
    for language in ("en", "tr"):
        compared += check_text((out / language / "report.md").read_text(encoding="utf-8"), again, language)
        same_tables(out / language)
    for row, one in zip(rows, again, strict=True):
        check_interval(row, one)
    return compared


def base_model(store: Path, run: str) -> Path:
    return resolve_model(ModelSpec.model_validate(read(store / "runs" / run / "spec.json")["spec"]["model"]))


def check_columns(row: dict[str, str], again: Recomputed) -> int:
    there = [name for name in again.columns if name in row]
    for name in there:
        assert float(row[name]) == pytest.approx(again.columns[name], rel=CLOSE, abs=2e-3), name
    return len(there)


def check_json(file: Path, rows: Sequence[dict[str, str]]) -> int:
    """Its rows are the CSV's columns."""
    measures = json.loads(file.read_text(encoding="utf-8"))["comparison"]["rows"]
    for measure in measures:
        given = [None if row[measure["key"]] == "" else float(row[measure["key"]]) for row in rows]
        assert measure["values"] == given
    return len(measures) * len(rows)


def check_interval(row: dict[str, str], again: Recomputed) -> None:
    """An independent bootstrap, by indices: its limits are the report's but for chance."""
    random = np.random.default_rng(5)
    before, after = np.array(again.baseline), np.array(again.tuned)
    drawn = [
        100 - 100 * after[i].sum() / before[i].sum()
        for i in (random.integers(0, len(before), len(before)) for _ in range(4000))
    ]
    few = len(before) - 1  # the percentiles that make up for few units, by Student's t
    student = np.quantile(random.standard_t(few, 10**6), 0.975)
    tail = 100 * NormalDist().cdf(-student * math.sqrt(len(before) / few))
    low, high = np.percentile(drawn, (tail, 100 - tail))
    chance = 0.15 * (high - low) + 1e-3
    assert float(row["loss_reduction_95_low_percent"]) == pytest.approx(low, abs=chance)
    assert float(row["loss_reduction_95_high_percent"]) == pytest.approx(high, abs=chance)


# The text that people read.


def number(text: str, language: str) -> tuple[float, int]:
    """A shown number and its digits after the point."""
    plain = re.sub(r"[*★%⚠]|\s|\(.*\)", "", text).replace("\\", "")
    if language == "tr":
        plain = plain.replace(".", "").replace(",", ".")
    plain = plain.replace(",", "").replace("\N{MINUS SIGN}", "-")
    return float(plain), len(plain.partition(".")[2])


def same(text: str, value: float, language: str) -> None:
    shown, digits = number(text, language)
    assert abs(shown - value) <= 0.5 * 10.0**-digits + CLOSE * max(1.0, abs(value)), (text, value)


def tables(markdown: str) -> list[Rows]:
    found: list[Rows] = []
    for block in re.findall(r"(?:^\|.*\|\n)+", markdown, re.MULTILINE):
        lines = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in block.splitlines()]
        found.append([lines[0], *lines[2:]])
    return found


def check_text(markdown: str, again: Sequence[Recomputed], language: str) -> int:
    everything = tables(markdown)
    comparison = next(table for table in everything if table[0][0] in ("Metric", "Metrik"))
    shown = [line for line in comparison[1:] if not line[0].startswith("–")]
    order = [
        "train_examples", "unique_words", "longest_example_tokens", "leaked_sentences_percent",
        "near_leaked_sentences_percent",
        "response_loss_reduction_percent", "loss_reduction_percent", "perplexity_reduction_percent",
        "seed_protocol_loss_reduction_percent",
        "seed_protocol_perplexity_reduction_percent", None, "final_train_loss", "best_eval_loss",
        "tuned_response_perplexity",
    ]  # fmt: skip
    compared = 0
    for name, line in zip(order, shown, strict=True):
        for one, cell in zip(again, line[1:], strict=True):
            if name:
                same(cell, one.columns[name], language)
                compared += 1
    baselines = [table for table in everything if table[1][0] in ("Response only", "Yalnızca yanıt")]
    curves = [table for table in everything if len(table[0]) == 5 and table[0][0] == "Epoch"]
    for one, baseline, curve in zip(again, baselines, curves, strict=True):
        compared += check_baseline(baseline, one, language) + check_curve(curve, one, language)
    return compared


def check_baseline(table: Rows, again: Recomputed, language: str) -> int:
    for way, line in zip(("response", "full", "seed_protocol"), table[1:4], strict=True):
        prefix = "" if way == "full" else f"{way}_"
        names = [f"baseline_{way}_loss", f"tuned_{way}_loss", f"{prefix}loss_reduction_percent"]
        names += [f"baseline_{way}_perplexity", f"tuned_{way}_perplexity", f"{prefix}perplexity_reduction_percent"]
        for name, cell in zip(names, line[1:], strict=True):
            same(cell, again.columns[name], language)
    return 18


def check_curve(table: Rows, again: Recomputed, language: str) -> int:
    for line in table[1:]:
        step = round(number(line[1], language)[0])
        for value, cell in zip(again.curve[step], line[2:4], strict=True):
            assert (cell == "–") == (value is None)
            if value is not None:
                same(cell, value, language)
    return 2 * len(table[1:])


class _Tables(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tables: list[Rows] = []
        self.within = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.within = True

    def handle_endtag(self, tag: str) -> None:
        self.within = self.within and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.within:
            self.tables[-1][-1][-1] += data


def same_tables(folder: Path) -> None:
    """The page's tables hold what the Markdown's hold, cell by cell."""
    page = _Tables()
    page.feed((folder / "report.html").read_text(encoding="utf-8"))
    shown = [[[plain(cell) for cell in row] for row in table] for table in page.tables]
    markdown = tables((folder / "report.md").read_text(encoding="utf-8"))
    assert shown == [[[plain(cell) for cell in row] for row in table] for table in markdown]


def plain(cell: str) -> str:
    return re.sub(r"[*`\\\s]", "", cell)
