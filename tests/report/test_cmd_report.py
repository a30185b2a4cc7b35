"""``cefr-batch report`` as the user runs it: what goes to which stream, exit codes, files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from clusters.s3 import Server
from support.report_stores import add_unfinished, three_levels

from cefr_batch.cli.main import main
from cefr_batch.store import below, open_store
from cefr_batch.store.local import LocalStore

Captured = pytest.CaptureFixture[str]


def test_markdown_on_standard_output_and_nothing_beside(tmp_path: Path, capsys: Captured) -> None:
    three_levels(tmp_path)
    assert main(["report", "--store", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("# CEFR fine-tuning results\n")
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


PICTURES = [f"levels_{name}.{kind}" for name in ("grid", "overlay") for kind in ("pdf", "png", "svg")]
ALL = [*PICTURES, "report.csv", "report.html", "report.json", "report.md"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("out", "formats", "files"),
    [
        ("reports", [], [f"reports/{name}" for name in ALL]),
        ("reports", ["--format", "csv,md"], [f"reports/{name}" for name in ALL if not name.endswith(("html", "json"))]),
        ("reports/levels.html", [], ["reports/levels.html"]),
        ("v1.2.json", ["--format", "json"], ["v1.2.json"]),
        ("a b#?%20ş", [], [f"a b#?%20ş/{name}" for name in ALL]),
    ],
)
def test_out_writes_the_files_asked_for_and_prints_a_line_for_each_level(
    tmp_path: Path, capsys: Captured, out: str, formats: list[str], files: list[str]
) -> None:
    store = three_levels(tmp_path / "store")
    assert main(["report", "--store", store.url, "--out", str(tmp_path / "there" / out), *formats]) == 0
    written = sorted(p.relative_to(tmp_path / "there").as_posix() for p in (tmp_path / "there").rglob("*.*"))
    assert written == files
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["A1", "A2", "B1"]
    assert "Loss over the response: " in lines[0]
    assert not set("*\\`") & set(printed.out)  # text, no mark-up
    assert all(str(tmp_path / "there" / name) in printed.err for name in files)


@pytest.mark.slow
@pytest.mark.parametrize("name", [b"r\xfd", b"r\xfd.md"])
def test_out_may_have_a_name_that_is_not_utf_8(tmp_path: Path, name: bytes) -> None:
    """As file names of other systems are."""
    out = tmp_path / os.fsdecode(name)
    assert main(["report", "--store", three_levels(tmp_path / "store").url, "--out", str(out), "--format", "md"]) == 0
    assert (out if out.suffix else out / "report.md").is_file()


@pytest.mark.parametrize("language", ["en", "tr"])
@pytest.mark.parametrize("kind", ["md", "html", "json", "csv"])
def test_a_format_is_printed_as_it_would_be_written(tmp_path: Path, capsys: Captured, kind: str, language: str) -> None:
    store = three_levels(tmp_path / "store")
    choice = ["report", "--store", store.url, "--format", kind, "--lang", language]
    assert main(choice) == 0
    printed = capsys.readouterr().out
    assert main([*choice, "--out", str(tmp_path / f"it.{kind}")]) == 0
    assert (tmp_path / f"it.{kind}").read_bytes() == printed.encode()


@pytest.mark.slow
def test_the_same_store_gives_the_same_bytes_in_every_file(tmp_path: Path) -> None:
    """In processes of their own: their hash seeds differ."""
    store = three_levels(tmp_path / "store")
    for place in ("first", "second"):
        command = [sys.executable, "-m", "cefr_batch", "report", "--store", store.url, "--out", str(tmp_path / place)]
        subprocess.run(command, check=True, capture_output=True)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == ALL
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "pdf"], "'pdf' is not a format; valid, separated by commas: md, html, json, csv"),
        (["--format", "md,html"], "2 formats cannot be printed at once; --out FOLDER writes them"),
        (["--format", "md", "--out", "x.html"], "names one file"),
        (["--lang", "de"], "'de' is not one of 'en', 'tr'"),
    ],
)
def test_a_choice_that_cannot_be_met_is_one_sentence(
    tmp_path: Path, capsys: Captured, options: list[str], said: str
) -> None:
    store = three_levels(tmp_path)
    assert main(["report", "--store", store.url, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_runs_may_be_named_by_an_option_too(tmp_path: Path, capsys: Captured) -> None:
    store = three_levels(tmp_path)
    assert main(["report", "--store", store.url, "--run", "llama1b-a2-unsloth-v1", "--format", "csv"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.startswith("run,level,state,")
    assert row.startswith("llama1b-a2-unsloth-v1,A2,SUCCEEDED,")


@pytest.mark.slow
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
    add_unfinished(store, "llama1b-b1-unsloth-v2", "B1", "FAILED", "cancelled by mistake")
    assert main(["report", "--store", str(tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    assert "llama1b-b1-unsloth-v2 is FAILED (cancelled by mistake)" in err
    assert out == ""
    assert "llama1b-a1-unsloth-v1 is FAILED (no space left); llama1b-b1-unsloth-v2 is" in err
    assert "llama1b-b1-unsloth-v1 is RUNNING" in err
    assert err.count("\n") == 1


def test_all_levels_are_those_that_have_a_run(tmp_path: Path, capsys: Captured) -> None:
    three_levels(tmp_path)
    assert main(["report", "--store", str(tmp_path), "--level", "all", "--format", "json"]) == 0
    assert [one["level"] for one in json.loads(capsys.readouterr().out)["levels"]] == ["A1", "A2", "B1"]


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


@pytest.mark.slow
def test_out_may_be_a_place_in_a_bucket(
    tmp_path: Path, capsys: Captured, aws: None, server_of: Callable[[str], Server]
) -> None:
    store = three_levels(tmp_path)
    bucket = open_store(server_of("moto").url("reported"))
    assert main(["report", "--store", store.url, "--out", below(bucket.url, "reports/x")]) == 0
    assert [found.key for found in bucket.objects("")] == [f"reports/x/{name}" for name in ALL]
    assert bucket.get_json("reports/x/report.json")["store"] == store.url
    assert main(["report", "--store", store.url, "--out", below(bucket.url, "levels.json")]) == 0
    assert [found.key for found in bucket.objects("levels")] == ["levels.json"]


def test_a_file_of_another_format_is_refused_before_anything_is_read(tmp_path: Path, capsys: Captured) -> None:
    for name in ("b1.pdf", "s3://bucket/b1.DOCX"):
        assert main(["report", "--store", str(tmp_path / "none"), "--out", name]) == 2
        assert "a report is written as md, html, json, csv" in capsys.readouterr().err
