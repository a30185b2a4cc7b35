"""``cefr-batch report`` as the user runs it: what goes to which stream, exit codes, files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from clusters.s3 import Server
from report_stores import add_unfinished, three_levels

from cefr_batch.cli.main import main
from cefr_batch.store import below, open_store
from cefr_batch.store.local import LocalStore

Captured = pytest.CaptureFixture[str]


def test_markdown_on_standard_output_and_nothing_beside(tmp_path: Path, capsys: Captured) -> None:
    three_levels(tmp_path)
    assert main(["report", "--store", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("# CEFR fine-tuning report\n")
    assert out.endswith("\n")
    assert not out.endswith("\n\n")
    assert err == ""


def test_json_is_one_document_and_nothing_else(tmp_path: Path, capsys: Captured) -> None:
    store = three_levels(tmp_path)
    assert main(["report", "--store", str(tmp_path), "--json", "--level", "b1", "--level", "C1"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["store"] == store.url
    assert [(e["label"], e["state"]) for e in document["levels"]] == [("B1", "SUCCEEDED"), ("C1", "MISSING")]
    assert document["levels"][0]["result"]["metrics"] == store.get_json("runs/llama1b-b1-unsloth-v1/metrics.json")
    assert err == ""


@pytest.mark.parametrize(
    ("out", "files"),
    [
        ("reports", ["reports/report.json", "reports/report.md"]),
        ("reports/levels.md", ["reports/levels.json", "reports/levels.md"]),
        ("v1.2.json", ["v1.2.json", "v1.2.md"]),
        ("a b#?%20ş", ["a b#?%20ş/report.json", "a b#?%20ş/report.md"]),
    ],
)
def test_out_writes_both_files_and_prints_no_report(
    tmp_path: Path, capsys: Captured, out: str, files: list[str]
) -> None:
    store = three_levels(tmp_path / "store")
    assert main(["report", "--store", store.url, "--out", str(tmp_path / "there" / out)]) == 0
    written = sorted(p.relative_to(tmp_path / "there").as_posix() for p in (tmp_path / "there").rglob("*.*"))
    assert written == files
    printed = capsys.readouterr()
    assert printed.out == ""
    assert all(str(tmp_path / "there" / name) in printed.err for name in files)
    main(["report", "--store", store.url])
    main(["report", "--store", store.url, "--json"])
    same = "".join((tmp_path / "there" / name).read_text(encoding="utf-8") for name in reversed(files))
    assert capsys.readouterr().out == same


def test_out_that_cannot_be_written_is_one_sentence(tmp_path: Path, capsys: Captured) -> None:
    store = three_levels(tmp_path / "store")
    (tmp_path / "file").write_text("in the way")
    assert main(["report", "--store", store.url, "--out", str(tmp_path / "file" / "sub")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: cannot write ")
    assert err.count("\n") == 1


def test_nothing_complete_says_which_runs_there_are_and_their_states(tmp_path: Path, capsys: Captured) -> None:
    store = LocalStore(tmp_path)
    add_unfinished(store, "llama1b-a1-unsloth-v1", "A1", "FAILED", "no space left\nmore lines")
    add_unfinished(store, "llama1b-b1-unsloth-v1", "B1", "RUNNING")
    assert main(["report", "--store", str(tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "llama1b-a1-unsloth-v1 is FAILED (no space left); llama1b-b1-unsloth-v1 is RUNNING" in err
    assert err.count("\n") == 1


def test_a_level_without_a_run_alone_is_a_failure(tmp_path: Path, capsys: Captured) -> None:
    three_levels(tmp_path)
    assert main(["report", "--store", str(tmp_path), "--level", "C1"]) == 1
    assert "C1 is MISSING" in capsys.readouterr().err


def test_an_empty_store_says_how_to_start(tmp_path: Path, capsys: Captured) -> None:
    assert main(["report", "--store", str(tmp_path / "nothing")]) == 1
    assert "no runs in" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(("argument", "code"), [("llama1b-b1-unsloth-v7", 1), ("Not/A/Run", 2), ("--level=Z9", 2)])
def test_what_does_not_exist_is_one_sentence(tmp_path: Path, capsys: Captured, argument: str, code: int) -> None:
    three_levels(tmp_path)
    assert main(["report", "--store", str(tmp_path), argument]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err


def test_a_run_named_is_reported_alone(tmp_path: Path, capsys: Captured) -> None:
    three_levels(tmp_path)
    assert main(["report", "--store", str(tmp_path), "llama1b-a2-unsloth-v1"]) == 0
    out = capsys.readouterr().out
    assert "## A2\n" in out
    assert "Only A2 has figures" in out


def test_out_may_be_a_place_in_a_bucket(
    tmp_path: Path, capsys: Captured, aws: None, server_of: Callable[[str], Server]
) -> None:
    store = three_levels(tmp_path)
    bucket = open_store(server_of("moto").url("reported"))
    assert main(["report", "--store", store.url, "--out", below(bucket.url, "reports/x")]) == 0
    assert [found.key for found in bucket.objects("")] == ["reports/x/report.json", "reports/x/report.md"]
    assert bucket.get_json("reports/x/report.json")["store"] == store.url
    assert main(["report", "--store", store.url, "--out", below(bucket.url, "levels.json")]) == 0
    assert [found.key for found in bucket.objects("levels")] == ["levels.json", "levels.md"]
