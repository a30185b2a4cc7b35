"""The rows of a spreadsheet (.xlsx) as text: what a person sees in its cells, or why it cannot be had."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, time, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

_MOST_BYTES = 64 * 10**6  # of a workbook's parts together, unpacked: some hundred thousand rows
_HEADER_ROWS = 20  # among which the header is looked for, below a title or notes
_OLE = b"\xd0\xcf\x11\xe0"  # how an old .xls file begins, and a file that is protected by a password
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_SAVE_AGAIN = "open it in a spreadsheet program and save it as .xlsx or CSV"

Cells = list[str]
Note = Callable[[str, int, str], None]  # what is wrong (or noteworthy), in which row, and the cell


class SpreadsheetError(Exception):
    """Why a spreadsheet cannot be read."""


class HeaderNotFound(SpreadsheetError):
    """No sheet has the columns: what it has instead."""


class SheetNotChosen(SpreadsheetError):
    """The sheet to read must be named: why."""


@dataclass(frozen=True)
class Sheet:
    """A sheet's header, and its rows below that are not empty, each with its number from 1. Cells of columns that were not
    asked for are empty."""

    header: Cells
    rows: list[tuple[int, Cells]]


def read_sheet(
    path: Path, data: bytes, name: str | None, wanted: Callable[[Cells], Sequence[int]], error: Note, warning: Note
) -> Sheet:
    """A sheet of a workbook, whose bytes are ``data``: the one of this name, or the only visible one that has the columns.

    ``wanted``: which columns of a header are read, by index; none for a row that is no header. ``error`` and ``warning``
    are told of cells. Raises ``SpreadsheetError``.
    """
    _check(data)
    with _opened(path) as workbook:
        sheet, number, header = _choose(workbook, name, wanted)
        columns = wanted(header)
        below = list(_below(sheet, number, len(header)))
        merged = _merged(path, sheet.title)
    formulas = _formulas(path, sheet.title, len(header)) if any(None in _values(row) for _, row in below) else {}
    reader = _Reader(columns, merged, formulas, error, warning)
    return Sheet(header, list(reader.rows(below)))


def _check(data: bytes) -> None:
    """Raise ``SpreadsheetError`` for what only looks like a workbook, or unpacks to more than it should."""
    if data.startswith(_OLE):
        protected = _ENCRYPTED in data
        what = "is protected by a password; remove it" if protected else "is an old .xls file"
        raise SpreadsheetError(f"{what}: {_SAVE_AGAIN}")
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as exc:
        raise SpreadsheetError(f"is not an .xlsx file, or is damaged ({exc}); {_SAVE_AGAIN}") from exc
    if any(part.flag_bits & 1 for part in parts):
        raise SpreadsheetError(f"is protected by a password; remove it: {_SAVE_AGAIN}")
    if sum(part.file_size for part in parts) > _MOST_BYTES:
        most = f"more than the {_MOST_BYTES // 10**6} MB that are read of a spreadsheet"
        raise SpreadsheetError(f"unpacks to {most}; save the sheet as CSV")


@contextmanager
def _opened(path: Path, **options: Any) -> Iterator[Any]:
    """The workbook, its cells read as they are asked for. Whatever the library raises becomes ``SpreadsheetError``."""
    try:
        import openpyxl
    except ImportError as exc:
        raise SpreadsheetError("needs openpyxl to be read: pip install 'cefr-batch[xlsx]'; or save it as CSV") from exc
    try:
        with closing(openpyxl.load_workbook(path, **{"read_only": True, "data_only": True, **options})) as workbook:
            yield workbook
    except SpreadsheetError:
        raise
    except Exception as exc:  # of a damaged file openpyxl raises what it meets: KeyError, ParseError, BadZipFile …
        what = f"{type(exc).__name__}: {exc}"
        raise SpreadsheetError(f"cannot be read as a spreadsheet ({what[:200]}); {_SAVE_AGAIN}") from exc


def _choose(workbook: Any, name: str | None, wanted: Callable[[Cells], Sequence[int]]) -> tuple[Any, int, Cells]:
    """The sheet to read, and the number and the cells of its header."""
    sheets = {sheet.title: sheet for sheet in workbook.worksheets}
    visible = [title for title, sheet in sheets.items() if sheet.sheet_state == "visible"]
    if name is not None and name not in sheets:
        raise SpreadsheetError(f"has no sheet {name!r}; its sheets: {', '.join(map(repr, sheets))}")
    titles = [name] if name is not None else visible
    if not titles:
        hidden = ", ".join(map(repr, sheets)) or "none"
        raise SheetNotChosen(f"has no visible sheet (hidden: {hidden})")
    found = {title: header for title in titles if (header := _header(sheets[title], wanted))}
    if len(found) > 1:
        raise SheetNotChosen(f"has the columns in several sheets: {', '.join(map(repr, found))}")
    if not found:
        raise HeaderNotFound(
            f"among the first {_HEADER_ROWS} rows of sheet {titles[0]!r}; {_likely(sheets[titles[0]])}"
        )
    ((title, (number, cells)),) = found.items()
    return sheets[title], number, cells


def _likely(sheet: Any) -> str:
    """The row that somebody may have meant as the header: the first of several cells, below a title."""
    rows = enumerate(map(_texts, _raw_rows(sheet, 1, _HEADER_ROWS)), 1)
    filled = [(number, [text for text in texts if text]) for number, texts in rows if any(texts)]
    number, texts = next((row for row in filled if len(row[1]) > 1), filled[0] if filled else (1, ["nothing"]))
    return f"row {number} is {', '.join(texts)[:60]!r}"


def _header(sheet: Any, wanted: Callable[[Cells], Sequence[int]]) -> tuple[int, Cells] | None:
    for number, row in enumerate(_raw_rows(sheet, 1, _HEADER_ROWS), 1):
        texts = _texts(row)
        while texts and not texts[-1]:
            texts.pop()
        if wanted(texts):
            return number, texts
    return None


def _raw_rows(sheet: Any, first: int, last: int | None, columns: int | None = None) -> Iterator[Sequence[Any]]:
    """A sheet's rows of cells. The range that the file itself states may be wrong, so it is not used."""
    sheet.reset_dimensions()
    return iter(sheet.iter_rows(min_row=first, max_row=last, max_col=columns))


def _below(sheet: Any, header: int, columns: int) -> Iterator[tuple[int, Sequence[Any]]]:
    """The rows below the header that are not empty, with their numbers."""
    for number, row in enumerate(_raw_rows(sheet, header + 1, None, columns), header + 1):
        if any(value not in (None, "") for value in _values(row)):
            yield number, row


def _values(row: Sequence[Any]) -> list[Any]:
    return [cell.value for cell in row]


def _texts(row: Sequence[Any]) -> Cells:
    return ["" if value is None else str(value).strip() for value in _values(row)]


def _formulas(path: Path, title: str, columns: int) -> dict[tuple[int, int], str]:
    """The formulas of a sheet by row and column (from 0)."""
    with _opened(path, data_only=False) as workbook:
        rows = enumerate(_raw_rows(workbook[title], 1, None, columns), 1)
        return {
            (number, at): cell.coordinate
            for number, row in rows
            for at, cell in enumerate(row)
            if cell.data_type == "f"
        }


def _merged(path: Path, title: str) -> dict[tuple[int, int], tuple[int, int]]:
    """Row and column (from 0) of each cell that is merged into one above it, which has its value."""
    with zipfile.ZipFile(path) as archive:
        sheets = [name for name in archive.namelist() if name.startswith("xl/worksheets/")]
        if not any(b"<mergeCell " in archive.read(name) for name in sheets):
            return {}
    with _opened(path, read_only=False) as workbook:
        areas = list(workbook[title].merged_cells.ranges)
    return {
        (row, area.min_col - 1): (area.min_row, area.min_col - 1)
        for area in areas
        for row in range(area.min_row + 1, area.max_row + 1)
    }


@dataclass(frozen=True)
class _Reader:
    columns: Sequence[int]
    merged: dict[tuple[int, int], tuple[int, int]]
    formulas: dict[tuple[int, int], str]
    error: Note
    warning: Note

    def rows(self, rows: Sequence[tuple[int, Sequence[Any]]]) -> Iterator[tuple[int, Cells]]:
        """The rows that can be read; of another the reason is told."""
        by_number = dict(rows)
        for number, row in rows:
            texts = [""] * max((*(at + 1 for at in self.columns), len(row)))
            good = True
            for at in self.columns:
                origin = self.merged.get((number, at), (number, at))
                cells = by_number.get(origin[0], ())
                text = self.text(cells[at], origin) if at < len(cells) else ""
                good, texts[at] = good and text is not None, text or ""
            if good:
                yield number, texts

    def text(self, cell: Any, at: tuple[int, int]) -> str | None:
        """What a cell shows; None if it has no text, which is told."""
        value = cell.value
        if value is None:
            if at not in self.formulas:
                return ""
            stored = "a formula without a stored result; open the file in a spreadsheet program and save it"
            self.error(f"has {stored}", at[0], self.formulas[at])
            return None
        if wrong := _unusable(cell):
            self.error(wrong, at[0], f"{cell.coordinate}: {value}")
            return None
        if isinstance(value, str):
            return value
        text = str(value).lower() if isinstance(value, bool) else f"{value:.15g}"
        self.warning("has a number or a truth value, which was read as text", at[0], f"{cell.coordinate}: {text}")
        return text


def _unusable(cell: Any) -> str:
    """Why a cell's value cannot be text; empty if it can."""
    if cell.data_type == "e":
        return "has a formula that failed; correct it"
    if isinstance(cell.value, (date, time, timedelta)):
        return "has a date or a time where text is needed; format the cell as text, and type it again"
    return "" if isinstance(cell.value, (str, int, float)) else "has a value that is not text"
