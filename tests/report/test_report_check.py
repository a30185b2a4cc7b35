"""``report --check``: a report agrees with the store that it was made from, and with no other."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.released import COMPLETE, released_documents
from support.report_stores import A1, add_complete, add_unfinished

from cefr_batch.cli.main import main
from cefr_batch.report.check import check_report
from cefr_batch.report.write import write_report
from cefr_batch.store.local import LocalStore

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return released_documents(tmp_path / "store")


@pytest.fixture
def file(store: LocalStore, tmp_path: Path) -> Path:
    """The report of that store."""
    (made,) = write_report(store, str(tmp_path / "report.json"))
    return Path(made)


def check(file: Path, store: Path) -> int:
    return main(["report", "--check", str(file), "--store", str(store)])


def edit(file: Path, document: Any) -> None:
    file.write_text(json.dumps(document), encoding="utf-8")


def test_a_report_agrees_with_its_store(store: LocalStore, file: Path, tmp_path: Path, capsys: Captured) -> None:
    assert check(file, tmp_path / "store") == 0
    assert f"report.json agrees with {store.url}: 17 objects are those that it was made from" in capsys.readouterr().out
    found = check_report(store, file)
    assert found.compared_values > 500
    assert not found.other_version


def test_it_names_every_object_that_a_report_reads(store: LocalStore, file: Path) -> None:
    named = {one["key"] for one in json.loads(file.read_bytes())["made_from"]}
    for run in COMPLETE:
        for name in ("spec", "metrics", "evaluation", "generation", "manifest", "attempts/1"):
            assert f"runs/{run}/{name}.json" in named
    assert sum(key.startswith("datasets/") and key.endswith("/eval.json") for key in named) == 2
    assert any(key.startswith("ratings/") and "/raters/" in key for key in named)


@pytest.mark.slow
def test_one_byte_of_one_object_is_enough_and_the_object_is_named(
    store: LocalStore, file: Path, tmp_path: Path, capsys: Captured
) -> None:
    for one in json.loads(file.read_bytes())["made_from"]:
        whole = store.get(one["key"])
        place = len(whole) // 2
        for changed in (whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], whole + b"\n", whole[:-1]):
            store.put(one["key"], changed)
            assert check(file, tmp_path / "store") == 1
            assert f"{store.locate(one['key'])} is not the object that {file} names" in capsys.readouterr().err
        store.put(one["key"], whole)
    assert check(file, tmp_path / "store") == 0


def test_a_missing_object_is_named(store: LocalStore, file: Path, tmp_path: Path, capsys: Captured) -> None:
    for one in json.loads(file.read_bytes())["made_from"]:
        whole = store.get(one["key"])
        store.delete(one["key"])
        assert check(file, tmp_path / "store") == 1
        assert f"{store.locate(one['key'])} is missing" in capsys.readouterr().err
        store.put(one["key"], whole)


def numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all numbers."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from numbers(part, (*path, key))
    elif isinstance(value, list):
        for key, part in enumerate(value):
            yield from numbers(part, (*path, key))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path


def changed(document: Any, path: tuple[Any, ...], factor: float) -> Any:
    new = copy.deepcopy(document)
    *before, last = path
    part = new
    for key in before:
        part = part[key]
    part[last] = part[last] * factor or 1e-3
    return new


def shown(path: tuple[Any, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


@pytest.mark.slow
def test_a_changed_figure_is_named_with_both_values(store: LocalStore, file: Path, capsys: Captured) -> None:
    """Of the metrics, the settings and the comparison, chosen by chance: one at a time, and by one part in 10⁷."""
    document = json.loads(file.read_bytes())
    places = [path for path in numbers(document) if path[0] in ("levels", "comparison")]
    assert len(places) > 300
    for path in [("comparison", "rows", 0, "values", 0), *random.Random(13).sample(places, 10)]:
        edit(file, changed(document, path, 1 + 1e-7))
        (difference,) = check_report(store, file).differences
        assert difference.place == shown(path)
        assert check(file, Path(store.url.removeprefix("file://"))) == 1
        assert f"{shown(path)} is {json.dumps(difference.stated)[:80]}" in capsys.readouterr().err


def test_last_digits_may_be_rounded_otherwise(store: LocalStore, file: Path) -> None:
    document = json.loads(file.read_bytes())
    row = next(r for r in document["comparison"]["rows"] if isinstance(r["values"][0], float) and r["values"][0])
    row["values"][0] *= 1 + 1e-11
    edit(file, document)
    assert check_report(store, file).differences == ()


@pytest.mark.parametrize("change", ["a row less", "a run less", "a key more", "text for a number", "an endless number"])
def test_other_changes_are_named_too(store: LocalStore, file: Path, change: str) -> None:
    document = json.loads(file.read_bytes())
    if change == "a row less":
        document["comparison"]["rows"].pop()
    elif change == "a run less":
        document["levels"][0]["results"].pop()
    elif change == "a key more":
        document["comparison"]["more"] = 1
    else:
        document["comparison"]["rows"][0]["values"][0] = "1" if change == "text for a number" else 10**400
    edit(file, document)
    assert check_report(store, file).differences


def test_an_object_taken_off_the_list_leaves_its_run_without_figures(store: LocalStore, file: Path) -> None:
    document = json.loads(file.read_bytes())
    document["made_from"] = [one for one in document["made_from"] if one["key"] != f"runs/{COMPLETE[1]}/metrics.json"]
    edit(file, document)
    (problem,) = check_report(store, file).objects
    assert f"metrics.json of {COMPLETE[1]}" in problem


def test_what_the_store_got_since_does_not_matter(store: LocalStore, file: Path, tmp_path: Path) -> None:
    """A newer complete run, one that failed, other words of a job; and it may lie elsewhere."""
    add_complete(store, "tiny-b1-peft-v9", "B1", A1)
    add_unfinished(store, "tiny-a1-peft-v9", "A1", "FAILED", "it broke")
    store.put(f"runs/{COMPLETE[0]}/status.json", b"anything")
    assert check(file, tmp_path / "store") == 0
    shutil.move(tmp_path / "store", tmp_path / "elsewhere")
    assert check(file, tmp_path / "elsewhere") == 0


def test_a_report_with_a_level_whose_newest_run_failed_agrees(store: LocalStore, tmp_path: Path) -> None:
    """Its label, older figures and reason are those of its moment."""
    add_unfinished(store, "tiny-b1-peft-v9", "B1", "FAILED", "it broke")
    chosen: list[tuple[list[str], list[str]]] = [([], ["A1", "B1", "C1"]), ([COMPLETE[1], "tiny-b1-peft-v9"], [])]
    for runs, levels in chosen:
        (file,) = write_report(store, str(tmp_path / "it.json"), runs=runs, levels=levels)
        assert check_report(store, Path(file)).differences == ()


BAD_RUN = [{"run": "../x", "seed": 1}]
OTHERS = [
    ("older", lambda document: {k: v for k, v in document.items() if k not in ("schema", "made_from", "made_by")}, "0.1.0"),
    ("newer", lambda document: {**document, "schema": 99}, "upgrade cefr-batch"),
    ("no report", lambda document: {"schema": 1}, "does not have the expected content (store: missing; levels: missing)"),
    ("a list", lambda document: [document], "does not have the expected content"),
    ("a bad run", lambda document: {**document, "levels": [{**document["levels"][0], "results": BAD_RUN}]},
     "must be the name of a run"),
    ("a key outside", lambda document: {**document, "made_from": [{"key": "../x", "size": 1, "sha256": "0" * 64}]},
     "refused object key '../x'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [one[1:] for one in OTHERS], ids=[one[0] for one in OTHERS])
def test_another_file_is_refused_with_the_reason(
    file: Path, tmp_path: Path, capsys: Captured, change: Any, message: str
) -> None:
    edit(file, change(json.loads(file.read_bytes())))
    assert check(file, tmp_path / "store") == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff", b"NaN", b'"\\ud800"', b'{"levels": NaN}'])
def test_what_is_no_json_is_refused(file: Path, tmp_path: Path, capsys: Captured, data: bytes) -> None:
    file.write_bytes(data)
    assert check(file, tmp_path / "store") == 1
    assert str(file) in capsys.readouterr().err


def test_the_command_takes_nothing_beside_the_file(file: Path, tmp_path: Path, capsys: Captured) -> None:
    store = ["--store", str(tmp_path / "store")]
    for more in (["--level", "B1"], ["--out", "x"], [COMPLETE[0]], ["--json"]):
        assert main(["report", "--check", str(file), *more, *store]) == 2
    assert main(["report", "--check", str(tmp_path / "none.json"), *store]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_a_difference_says_that_another_version_wrote_the_file(file: Path, tmp_path: Path, capsys: Captured) -> None:
    document = json.loads(file.read_bytes())
    document["made_by"] = "9.9"
    document["comparison"]["rows"][0]["values"][0] = 12345
    edit(file, document)
    assert check(file, tmp_path / "store") == 1
    assert "it was written by version 9.9, which may compute differently" in capsys.readouterr().err
