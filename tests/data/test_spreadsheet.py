"""Sentence pairs in .xlsx files, as spreadsheet programs and people leave them, read by the one reader of tables."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openpyxl import Workbook, load_workbook

from cefr_batch.config.schema import Level
from cefr_batch.data import spreadsheet
from cefr_batch.data.checks import check_file
from cefr_batch.data.io import TableLayout
from cefr_batch.data.pairs import Pair, read_pairs
from cefr_batch.errors import DataError, UsageError

HEADER = ("word", "sentence")
CAT, DOG = ("cat", "The cat sleeps."), ("dog", "A dog barks.")


def saved(path: Path, *rows: Sequence[Any], change: Callable[[Any], object] | None = None) -> Path:
    """A workbook with one sheet of these rows, which may be changed before it is saved."""
    book = Workbook()
    for row in rows:
        book.active.append(row)
    if change:
        change(book)
    book.save(path)
    return path


def pairs(path: Path, columns: str | None = None, sheet: str | None = None) -> list[Pair]:
    return read_pairs(str(path), Level.A1, TableLayout.parse(columns, sheet))


def refusal(path: Path, **named: str) -> str:
    with pytest.raises(DataError) as caught:
        pairs(path, **named)
    return str(caught.value)


def test_rows_with_their_numbers_empty_ones_left_out(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "p.xlsx", (" Word", "note", "SENTENCE"), ("cat", "x", "The cat sleeps."), (), (), ("dog", None, "")
    )
    assert refusal(path) == f"{path}: row 5: the sentence is empty"


def test_a_header_may_stand_below_a_title_and_other_columns_beside(tmp_path: Path) -> None:
    path = saved(tmp_path / "p.xlsx", ("Unit 3",), (), ("no", *HEADER), (1, *CAT), (2, *DOG))
    assert pairs(path) == [Pair(*CAT), Pair(*DOG)]


def test_columns_and_sheet_by_name(tmp_path: Path) -> None:
    def second(book: Any) -> None:
        for row in (("Kelime", "Cümle", "word"), (*CAT, "other"), (*DOG, "other")):
            book.create_sheet("Sözcükler").append(row) if "Sözcükler" not in book else book["Sözcükler"].append(row)

    path = saved(tmp_path / "p.xlsx", ("nothing",), change=second)
    named = "word=kelime,sentence=CU\N{COMBINING DIAERESIS}MLE"  # any case, composed or not
    assert pairs(path, named) == [Pair(*CAT), Pair(*DOG)]
    assert pairs(path, named, "Sözcükler") == [Pair(*CAT), Pair(*DOG)]
    assert "has no sheet 'Words'; its sheets: 'Sheet', 'Sözcükler'" in refusal(path, sheet="Words")
    assert "no header 'word,sentence' among the first 20 rows of sheet 'Sheet'; row 1 is 'nothing' (if its" in refusal(
        path
    )
    assert "--columns word=…,sentence=…" in refusal(path)


def test_several_sheets_that_would_do_must_be_told_apart_and_hidden_ones_do_not_count(tmp_path: Path) -> None:
    def copies(book: Any) -> None:
        book.copy_worksheet(book.active).title = "B1"
        hidden = book.copy_worksheet(book.active)
        hidden.title, hidden.sheet_state = "old", "hidden"

    path = saved(tmp_path / "p.xlsx", HEADER, CAT, change=copies)
    assert "has the columns in several sheets: 'Sheet', 'B1'; name the one to read with --sheet, or " in refusal(path)
    assert pairs(path, sheet="old") == [Pair(*CAT)]

    def hide(book: Any) -> None:
        book.create_sheet("shown")
        book["Sheet"].sheet_state = "veryHidden"

    path = saved(tmp_path / "h.xlsx", HEADER, CAT, change=hide)
    assert "of sheet 'shown'; row 1 is 'nothing'" in refusal(path)


def test_a_merged_word_stands_for_all_its_sentences(tmp_path: Path) -> None:
    rows = (HEADER, CAT, (None, "A black cat."), DOG)
    path = saved(tmp_path / "p.xlsx", *rows, change=lambda book: book.active.merge_cells("A2:A3"))
    assert pairs(path) == [Pair(*CAT), Pair("cat", "A black cat."), Pair(*DOG)]
    path = saved(tmp_path / "w.xlsx", *rows, change=lambda book: book.active.merge_cells("A4:B4"))
    assert "row 3: the word is empty" in refusal(path)
    assert "row 4: the sentence is empty" in refusal(path)


def test_numbers_and_truth_values_are_text_with_a_warning(tmp_path: Path) -> None:
    path = saved(tmp_path / "p.xlsx", HEADER, (7, "Seven is 7."), (2.5, "It is 2.5 m."), (True, "It is true."))
    assert [pair.word for pair in pairs(path)] == ["7", "2.5", "true"]
    (warning,) = check_file(path).diagnostics.warnings
    expected = (
        "has a number or a truth value, which was read as text; 3 times, at row 2 (A2: 7), 3 (A3: 2.5), 4 (A4: true)"
    )
    assert str(warning) == f"{path}: {expected}"


def test_a_date_and_a_failed_formula_are_named_by_their_cells(tmp_path: Path) -> None:
    path = saved(tmp_path / "p.xlsx", HEADER, (date(2026, 5, 1), "It is May."), ("may", "#REF!"))
    text = refusal(path)
    assert (
        "row 2: has a date or a time where text is needed; format the cell as text, and type it again (A2: 2026-05-01"
        in text
    )
    assert "row 3: has a formula that failed; correct it (B3: #REF!)" in text


def with_formula(path: Path, stored: str) -> Path:
    """A workbook whose B2 has a formula, with what a spreadsheet program stored as its result (openpyxl stores none)."""
    saved(path, HEADER, ("cat", '="The "&"cat sleeps."'), DOG)
    parts = {name: zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist()}
    sheet = parts["xl/worksheets/sheet1.xml"].decode()
    assert "<v />" in sheet or "<v></v>" in sheet
    for empty in ("<v />", "<v></v>"):
        sheet = sheet.replace(empty, stored)
    sheet = sheet.replace('<c r="B2">', '<c r="B2" t="str">')
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**parts, "xl/worksheets/sheet1.xml": sheet.encode()}.items():
            archive.writestr(name, data)
    return path


def test_a_formula_gives_its_stored_result_or_says_that_it_has_none(tmp_path: Path) -> None:
    path = with_formula(tmp_path / "p.xlsx", "<v>The cat sleeps.</v>")
    assert load_workbook(path)["Sheet"]["B2"].value.startswith("=")
    assert pairs(path) == [Pair(*CAT), Pair(*DOG)]
    without = with_formula(tmp_path / "q.xlsx", "")
    assert refusal(without) == (
        f"{without}: row 2: has a formula without a stored result; open the file in a spreadsheet program and save it (B2)"
    )


def test_what_only_looks_like_a_spreadsheet(tmp_path: Path) -> None:
    contents = {
        "old.xlsx": (b"\xd0\xcf\x11\xe0" + bytes(600), "is an old .xls file: open it in a spreadsheet program"),
        "locked.xlsx": (
            b"\xd0\xcf\x11\xe0" + "EncryptedPackage".encode("utf-16-le"),
            "is protected by a password; remove it",
        ),
        "text.xlsx": (b"word,sentence\n", "is not an .xlsx file, or is damaged"),
        "cut.xlsx": (
            saved(tmp_path / "whole.xlsx", HEADER, CAT).read_bytes()[:-200],
            "is not an .xlsx file, or is damaged",
        ),
        "empty.xlsx": (b"", "is not an .xlsx file, or is damaged"),
        "zip.xlsx": (zipped({"a.txt": b"hello"}), "cannot be read as a spreadsheet ("),
        "named.csv": ((tmp_path / "whole.xlsx").read_bytes(), "is a spreadsheet, whatever its name says"),
        "old.xls": (b"\xd0\xcf\x11\xe0" + bytes(600), "is a spreadsheet in another format than .xlsx; open it"),
    }
    for name, (data, reason) in contents.items():
        (tmp_path / name).write_bytes(data)
        assert refusal(tmp_path / name).startswith(f"{tmp_path / name}: {reason}")
    assert "no such file" in refusal(tmp_path / "gone.xlsx")


def zipped(parts: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return data.getvalue()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "bomb.xlsx"
    bomb.write_bytes(zipped({"xl/worksheets/sheet1.xml": bytes(spreadsheet._MOST_BYTES + 1)}))
    assert bomb.stat().st_size < 100_000

    def unpacked(*_: object) -> bytes:
        raise AssertionError("it was unpacked")

    monkeypatch.setattr(zipfile.ZipFile, "read", unpacked)
    assert "unpacks to more than the 64 MB that are read of a spreadsheet; save the sheet as CSV" in refusal(bomb)


def test_a_cell_far_away_costs_nothing(tmp_path: Path) -> None:
    """A stray blank in the last cell of the sheet, and a format there: iterating over all cells between would never end."""

    def far(book: Any) -> None:
        book.active["XFD1048576"] = " "

    path = saved(tmp_path / "p.xlsx", HEADER, CAT, change=far)
    assert pairs(path) == [Pair(*CAT)]


def test_without_openpyxl_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "p.xlsx", HEADER, CAT)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert refusal(path) == f"{path}: needs openpyxl to be read: pip install 'cefr-batch[xlsx]'; or save it as CSV"


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20)


@pytest.mark.slow
@given(st.lists(st.tuples(st.none() | TEXTS | st.integers() | st.floats(allow_nan=False), TEXTS), max_size=5))
def test_any_workbook_is_read_or_refused_in_words(rows: list[tuple[Any, str]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = saved(Path(folder, "p.xlsx"), HEADER, *rows)
        check_file(path)
        with suppress(DataError):
            read_pairs(str(path), Level.A1)


@pytest.mark.parametrize("columns", ["Kelime", "word=", "word=a,word=b", "level=x", "=a", "word=a,,=b"])
def test_columns_that_cannot_be_meant(columns: str) -> None:
    with pytest.raises(UsageError, match="as in word=Kelime,sentence=Cümle"):
        TableLayout.parse(columns, None)
