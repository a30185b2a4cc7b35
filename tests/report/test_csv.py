"""The CSV: a row a run, numbers that read back exactly, no formula."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from support.report_stores import B1, add_unfinished, metrics, three_levels

from cefr_batch.report.as_csv import COLUMNS, report_csv
from cefr_batch.report.collect import collect
from cefr_batch.store.local import LocalStore


def rows(store: LocalStore, **choice: list[str]) -> list[dict[str, str]]:
    text = report_csv(collect(store, **choice)).decode()
    assert text.count("\r\n") == text.count("\n")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_row_for_each_run_also_without_figures(tmp_path: Path) -> None:
    store = three_levels(tmp_path)
    add_unfinished(store, "llama1b-a2-unsloth-v2", "A2", "FAILED", "no space\nleft", at="2025-10-27T08:00:00+00:00")
    found = [(r["level"], r["run"], r["state"], r["reason"]) for r in rows(store, levels=["A1", "A2", "C1"])]
    assert found == [
        ("A1", "llama1b-a1-unsloth-v1", "SUCCEEDED", ""),
        ("A2", "llama1b-a2-unsloth-v1", "SUCCEEDED", ""),
        ("A2", "llama1b-a2-unsloth-v2", "FAILED", "no space left"),
        ("C1", "", "MISSING", ""),
    ]


def test_numbers_are_the_stored_ones(tmp_path: Path) -> None:
    store = three_levels(tmp_path)
    stored = store.get_json("runs/llama1b-b1-unsloth-v1/metrics.json")
    (row,) = rows(store, levels=["B1"])
    assert set(row) == set(COLUMNS)
    assert float(row["tuned_seed_protocol_loss"]) == stored["tuned"]["seed_protocol"]["loss"]
    assert float(row["loss_reduction_percent"]) == stored["reduction"]["full"]["loss_percent"]
    assert float(row["samples_per_second"]) == stored["train"]["samples_per_second"]
    assert int(row["training_seconds"].partition(".")[0]) == 402
    assert row["baseline_unseen_loss"] == ""


@pytest.mark.parametrize("evil", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\N{FULLWIDTH EQUALS SIGN}1"])
def test_text_is_no_formula(tmp_path: Path, evil: str) -> None:
    store = three_levels(tmp_path)
    made = {**metrics("llama1b-b1-unsloth-v1", "B1", B1), "model": evil}
    store.put_json("runs/llama1b-b1-unsloth-v1/metrics.json", made)
    (row,) = rows(store, levels=["B1"])
    assert row["model"].startswith("'")
    assert row["model"].endswith(evil.strip())


def test_a_turkish_spreadsheet_program_opens_the_turkish_file(tmp_path: Path) -> None:
    """It splits at semicolons, takes 0.43 for a date or a text, and needs the mark to see UTF-8."""
    report = collect(three_levels(tmp_path), levels=["B1"])
    data = report_csv(report, "tr")
    assert data.startswith("\ufeff".encode())
    (row,) = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), delimiter=";")
    (english,) = rows(three_levels(tmp_path / "again"), levels=["B1"])
    assert set(row) == set(COLUMNS)
    assert row["loss_reduction_percent"].replace(",", ".") == english["loss_reduction_percent"]
    assert "," in row["loss_reduction_percent"]
    assert not report_csv(report).startswith("\ufeff".encode())
