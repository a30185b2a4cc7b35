"""Reading data files: their records, each with its place, and what is wrong with them."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cefr_batch.errors import DataError, Problem, UsageError, cut_short

_UNUSABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")
# Characters without width: soft hyphen, zero-width space and the like, marks of direction, byte order mark. A zero-width
# joiner between two characters beyond ASCII holds an emoji together.
_INVISIBLE = re.compile(
    r"[\u00ad\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
    r"|(?<![^\x00-\x7f])\u200d|\u200d(?![^\x00-\x7f])"
)
_BROKEN_LINE_END = re.compile(r"\r\n?")
_TABLES = (".csv", ".tsv")
_SPREADSHEETS = (".xlsx", ".xlsm")
_JSONL = (".jsonl", ".ndjson")
_DELIMITERS = (",", ";", "\t")
_SHOWN_OF_HEADER = 200  # characters, in a message
_SHOWN_PLACES = 10
_PAIR = ("word", "sentence")  # the columns of a table of sentence pairs


@dataclass(frozen=True)
class WayOut:
    """What to do about a table that lacks the columns, and about a workbook that has them in several sheets or hidden: what
    the user can say depends on the command."""

    columns: str
    sheet: str


_OTHER_NAMES = "if its columns have other names, say so"
_ALONE = "save the sheet to read alone as CSV"
BY_OPTION = WayOut(f"{_OTHER_NAMES}: --columns word=…,sentence=…", f"name the one to read with --sheet, or {_ALONE}")
BY_SETTING = WayOut(
    f"{_OTHER_NAMES}, as in --set data.columns.word=Kelime --set data.columns.sentence=Cümle, or in the level's file "
    "under data: columns: {word: Kelime, sentence: Cümle}",
    f"name the one to read with --set data.sheet=…, or in the level's file under data: sheet: …; or {_ALONE}",
)
_NO_NAMES = WayOut("", _ALONE)  # for tables whose columns have fixed names
_NO_TABLE = WayOut(
    "a table holds sentence pairs; give it as data.source, or run `cefr-batch data build`", _ALONE
)  # where examples are asked for


@dataclass(frozen=True)
class TableLayout:
    """Where a file has what is asked for. ``columns``: our name of a column (or key) → the file's; ``sheet``: of a
    spreadsheet, by default the only one that has the columns; ``way_out``: how the user can say these."""

    columns: Mapping[str, str] = field(default_factory=dict)
    sheet: str | None = None
    way_out: WayOut = BY_OPTION

    @classmethod
    def parse(cls, columns: str | None, sheet: str | None) -> TableLayout:
        """From what ``--columns word=Kelime,sentence=Cümle`` and ``--sheet`` say. Raises ``UsageError``."""
        pairs = [one.partition("=") for one in (columns or "").split(",") if one.strip()]
        named = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
        if len(named) < len(pairs) or not named.keys() <= set(_PAIR) or not all(named.values()):
            raise UsageError(f"--columns: {columns!r} must name columns, as in word=Kelime,sentence=Cümle")
        return cls(named, sheet)

    def heading(self, name: str) -> str:
        """What the file calls this column, as headings are compared."""
        return _heading(self.columns.get(name, name))

    def renamed(self, names: Sequence[str]) -> list[str]:
        """A file's names of columns under ours; empty for one that ours would be taken for."""
        ours = {self.heading(name): name for name in self.columns}
        return [ours.get(_heading(name), "" if name in self.columns else name) for name in names]


def _heading(text: str) -> str:
    return normalized_text(text).strip().casefold()


@dataclass
class Diagnostics:
    """What a check found: errors make the data unusable, warnings deserve a look. Each is named once, with its places."""

    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def raise_errors(self) -> None:
        """Raise ``DataError`` with all errors, if there is any."""
        if self.errors:
            raise DataError(self.errors)


_Places = list[tuple[int | None, str]]  # a record's number, and what is special about this one


class DataFile:
    """The records of a file, each with its number, and what is wrong with them.

    A record of a .json file is numbered by its index from 0; of any other file by its line or row from 1.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[tuple[int, Any]] = []
        self._errors: dict[str, _Places] = {}
        self._warnings: dict[str, _Places] = {}

    @property
    def first(self) -> Any:
        """The first record; None of a file that has none."""
        return self.records[0][1] if self.records else None

    @property
    def failed(self) -> bool:
        """Whether there is any error."""
        return bool(self._errors)

    @property
    def diagnostics(self) -> Diagnostics:
        """All errors and warnings so far."""
        found = (self._errors, self._warnings)
        return Diagnostics(*([self._problem(what, places) for what, places in one.items()] for one in found))

    def error(self, what: str, number: int | None = None, detail: str = "") -> None:
        """Note an error of a record, or of the whole file; ``detail`` is of this record alone."""
        self._errors.setdefault(what, []).append((number, detail))

    def warning(self, what: str, number: int | None = None, detail: str = "") -> None:
        """Note a warning of a record, or of the whole file; ``detail`` is of this record alone."""
        self._warnings.setdefault(what, []).append((number, detail))

    def place(self, number: int) -> str:
        """A record's place in the file, in words."""
        return f"index {number} (from 0)" if self._unit == "index" else f"{self._unit} {number}"

    @property
    def _unit(self) -> str:
        """What is numbered."""
        ending = self.path.suffix.lower()
        return "index" if ending == ".json" else "row" if ending in _SPREADSHEETS else "line"

    def _problem(self, what: str, places: _Places) -> Problem:
        numbered = [(number, f" ({detail})" if detail else "") for number, detail in places if number is not None]
        if not numbered:
            return Problem(str(self.path), what)
        if len(numbered) == 1:
            number, detail = numbered[0]
            return Problem(f"{self.path}: {self.place(number)}", what + detail)
        shown = ", ".join(f"{number}{detail}" for number, detail in numbered[:_SHOWN_PLACES])
        more = ", …" if len(numbered) > _SHOWN_PLACES else ""
        at = f"index {shown}{more} (from 0)" if self._unit == "index" else f"{self._unit} {shown}{more}"
        return Problem(str(self.path), f"{what}; {len(numbered):,} times, at {at}")


def read_data_file(path: Path, layout: TableLayout | None = None, *, normalize: bool = True) -> DataFile:
    """A file of .json, .jsonl, .csv, .tsv or .xlsx. What cannot be read is an error in its diagnostics.

    Texts are normalized, with a warning: Unicode NFC, no invisible characters, line ends as ``\\n``.
    """
    return _read(path, _Wanted(layout or TableLayout(), _PAIR), normalize)


def read_examples_file(path: Path) -> DataFile:
    """As ``read_data_file``, of a file that is to hold examples in list format, as no table does."""
    return read_data_file(path, TableLayout(way_out=_NO_TABLE))


def read_table(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> DataFile:
    """A table with these columns and perhaps others, in any order; read as ``read_data_file`` reads tables.

    The names of columns are case-folded. Each of these stands once; a record lacks those that its line lacks.
    """
    way_out = WayOut(f"optional columns: {', '.join(optional)}", _ALONE) if optional else _NO_NAMES
    return _read(path, _Wanted(TableLayout(way_out=way_out), required, optional), normalize=True)


@dataclass(frozen=True)
class _Wanted:
    """What is read of a table: these columns, under our names."""

    layout: TableLayout
    required: Sequence[str]
    optional: Sequence[str] = ()

    def header(self, cells: Sequence[str]) -> list[str]:
        """A header's columns under our names. Raises ``_UnreadableError`` for one that stands twice."""
        header = self.layout.renamed([_heading(cell) for cell in cells])
        twice = [name for name in (*self.required, *self.optional) if header.count(name) > 1]
        if twice:
            named = " and ".join(self.layout.columns.get(name, name) for name in twice)
            raise _UnreadableError(f"the header has the column {named} more than once; keep one of them")
        return header

    def is_header(self, cells: Sequence[str]) -> bool:
        """Whether these cells name all columns that there must be."""
        return {self.layout.heading(name) for name in self.required} <= {_heading(cell) for cell in cells}

    @property
    def names(self) -> str:
        """What a header must name."""
        return ",".join(self.layout.columns.get(name, name) for name in self.required)

    @property
    def way_out(self) -> str:
        """What to do about a table without these columns, in brackets; empty where nothing can be said."""
        return f" ({self.layout.way_out.columns})" if self.layout.way_out.columns else ""


def _read(path: Path, wanted: _Wanted, normalize: bool) -> DataFile:
    file = DataFile(path)
    try:
        for number, record in _records(file, wanted):
            file.records.append((number, _normalized(file, number, record) if normalize else record))
    except _UnreadableError as exc:
        file.error(str(exc))
    return file


_UNKNOWN_KIND = "unknown kind of file; give a .json, .jsonl, .csv or .xlsx file"
_MISNAMED = "is a spreadsheet, whatever its name says; give it the ending .xlsx, or save it as CSV"
_OTHER_SPREADSHEET = "is a spreadsheet in another format than .xlsx; open it and save it as .xlsx or CSV"
_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"  # how .xlsx and .ods begin, and .xls


class _UnreadableError(Exception):
    """Why a file cannot be read, or not beyond a place."""


def _records(file: DataFile, wanted: _Wanted) -> Iterator[tuple[int, Any]]:
    kind_of_file = file.path.suffix.lower()
    data = _read_bytes(file.path)
    if kind_of_file in _SPREADSHEETS:
        return _sheet_records(file, data, wanted)
    text = _decoded(file, data)
    if not text.strip():
        raise _UnreadableError("is empty")
    if wanted.layout.sheet is not None:
        raise _UnreadableError(
            f"has no sheets, so there is none called {wanted.layout.sheet!r}; remove the setting sheet"
        )
    if kind_of_file in _TABLES:
        return _table_records(file, text, wanted)
    if kind_of_file not in (".json", *_JSONL):
        raise _UnreadableError(_UNKNOWN_KIND)
    items = _json_records(text) if kind_of_file == ".json" else _jsonl_records(file, text)
    return ((number, _renamed(record, wanted.layout)) for number, record in items)


def _renamed(record: Any, layout: TableLayout) -> Any:
    if not layout.columns or not isinstance(record, dict):
        return record
    named = zip(layout.renamed([str(key) for key in record]), record.values(), strict=True)
    return {name: value for name, value in named if name}


def _read_bytes(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise _UnreadableError("is a device or a pipe; give a file")
        return path.read_bytes()
    except FileNotFoundError as exc:
        raise _UnreadableError("no such file") from exc
    except IsADirectoryError as exc:
        raise _UnreadableError("is a folder; give a file") from exc
    except OSError as exc:
        raise _UnreadableError(f"cannot be read: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise _UnreadableError(
            "cannot be a file's name: it contains an invisible character (a null byte); type it again"
        ) from exc


def _sheet_records(file: DataFile, data: bytes, wanted: _Wanted) -> Iterator[tuple[int, dict[str, str]]]:
    from cefr_batch.data.spreadsheet import HeaderNotFound, SheetNotChosen, SpreadsheetError, read_sheet

    needed = (*wanted.required, *wanted.optional)

    def columns(cells: Sequence[str]) -> list[int]:
        if not wanted.is_header(cells):
            return []
        return [at for at, name in enumerate(wanted.header(cells)) if name in needed]

    try:
        sheet = read_sheet(file.path, data, wanted.layout.sheet, columns, file.error, file.warning)
    except HeaderNotFound as exc:
        raise _UnreadableError(f"no header {wanted.names!r} {exc}{wanted.way_out}") from exc
    except SheetNotChosen as exc:
        raise _UnreadableError(f"{exc}; {wanted.layout.way_out.sheet}") from exc
    except SpreadsheetError as exc:
        raise _UnreadableError(str(exc)) from exc
    header = wanted.header(sheet.header)
    for number, cells in sheet.rows:
        yield number, dict(zip(header, cells, strict=False))


def _decoded(file: DataFile, data: bytes) -> str:
    """UTF-8, or UTF-16 with its byte order mark; a table may be in Windows-1254 too, as Excel saves it in Turkey."""
    if data.startswith((_ZIP, _OLE)):
        raise _UnreadableError(_spreadsheet(file.path.suffix.lower(), data))
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as exc:
            raise _UnreadableError(f"is not valid UTF-16; {_save_again('UTF-16')}") from exc
    if encoding := _utf16_without_mark(data):
        raise _UnreadableError(f"is {encoding} without a byte order mark; {_save_again(encoding)}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        return _in_windows_1254(file, data, exc)


def _spreadsheet(ending: str, data: bytes) -> str:
    """What to do with a file that is no text."""
    if ending not in (*_TABLES, *_JSONL, ".json", ".xls", ".ods"):
        return _UNKNOWN_KIND
    return _OTHER_SPREADSHEET if data.startswith(_OLE) or ending == ".ods" else _MISNAMED


def _utf16_without_mark(data: bytes) -> str:
    """How a text is encoded of which nearly every second byte is zero; empty if that is not so."""
    start = data[:1000]
    for encoding, zeros in (("UTF-16LE", start[1::2]), ("UTF-16BE", start[::2])):
        if len(start) >= 4 and zeros.count(0) > 0.8 * len(zeros):
            return encoding
    return ""


def _in_windows_1254(file: DataFile, data: bytes, exc: UnicodeDecodeError) -> str:
    line = data.count(b"\n", 0, exc.start) + 1
    problem = f"is not UTF-8: byte 0x{data[exc.start]:02x} at offset {exc.start} (line {line})"
    # Where other characters are UTF-8, the file is damaged: read otherwise, they would be gibberish.
    if not data.decode("utf-8", "ignore").isascii():
        raise _UnreadableError(f"{problem}; save it again as UTF-8") from exc
    try:
        text = data.decode("cp1254")
    except UnicodeDecodeError:
        raise _UnreadableError(f"{problem}, nor Windows-1254; save it again as UTF-8") from exc
    if file.path.suffix.lower() not in _TABLES:
        raise _UnreadableError(f"{problem}; it seems to be Windows-1254; {_save_again('WINDOWS-1254')}") from exc
    way_out = _save_again("WINDOWS-1254")
    file.warning(f"{problem}; it was read as Windows-1254; look at its letters, or {way_out}")
    return text


def _save_again(encoding: str) -> str:
    return f"save it again as UTF-8 (in Excel: CSV UTF-8; elsewhere: iconv -f {encoding} -t UTF-8 OLD > NEW)"


def _normalized(file: DataFile, number: int, record: Any) -> Any:
    if not isinstance(record, dict):
        return record
    normalized = {key: normalized_text(value) if isinstance(value, str) else value for key, value in record.items()}
    if normalized != record:
        file.warning("has invisible or decomposed characters or Windows line ends, which were normalized", number)
    return normalized


def normalized_text(text: str) -> str:
    """A text in Unicode NFC, without invisible characters, its lines ended by ``\\n``."""
    if "\r" in text:
        text = _BROKEN_LINE_END.sub("\n", text)
    return text if text.isascii() else unicodedata.normalize("NFC", _INVISIBLE.sub("", text))


def _json_records(text: str) -> Iterator[tuple[int, Any]]:
    items = _parse_json(text)
    if not isinstance(items, list):
        raise _UnreadableError(f"must be a JSON list of examples or sentence pairs, but is {kind(items)}")
    yield from enumerate(items)


def _jsonl_records(file: DataFile, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, _parse_json(line, number)
            except _UnreadableError as exc:
                file.error(str(exc))


def _parse_json(text: str, line: int | None = None) -> Any:
    """The value of a JSON text: a whole file, or one line of a JSONL file. Raises ``_UnreadableError``."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        raise _UnreadableError(f"is not valid JSON: line {line or exc.lineno}, column {exc.colno}: {exc.msg}") from exc
    except (ValueError, RecursionError) as exc:
        at = f"line {line}: " if line else ""
        raise _UnreadableError(f"is not valid JSON: {at}{exc}") from exc


def _table_records(file: DataFile, text: str, wanted: _Wanted) -> Iterator[tuple[int, dict[str, str]]]:
    lines = _BROKEN_LINE_END.sub("\n", text)
    delimiter = _delimiter(lines, wanted)
    rows = csv.reader(io.StringIO(lines), delimiter=delimiter, strict=True)
    try:
        header = wanted.header(next(row for row in rows if row and not _is_separator(row)))
        for row in rows:
            if len(row) > len(header):
                what = f"{len(row)} fields instead of {len(header)}: a cell with {delimiter!r} needs double quotes"
                file.error(what, rows.line_num)
            elif any(cell.strip() for cell in row):
                yield rows.line_num, dict(zip(header, row, strict=False))
    except csv.Error as exc:
        raise _UnreadableError(f"is not valid CSV: line {rows.line_num}: {exc}") from exc


def _is_separator(row: list[str]) -> bool:
    """Whether this is Excel's line ``sep=;``."""
    return row[0].lower().startswith("sep=")


def _delimiter(text: str, wanted: _Wanted) -> str:
    """What separates the header's columns; Excel writes ``;`` where the decimal sign is a comma."""
    header, _, rest = text.lstrip().partition("\n")
    if header.lower().startswith("sep="):
        header = rest.partition("\n")[0]
    for delimiter in _DELIMITERS:
        if wanted.is_header([name.strip().strip('"') for name in header.split(delimiter)]):
            return delimiter
    raise _UnreadableError(
        f"the first line must be {wanted.names!r}, but is {cut_short(header.strip(), _SHOWN_OF_HEADER)!r}{wanted.way_out}"
    )


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def unusable_character(texts: Iterable[str]) -> str | None:
    """The first character that no tokenizer or JSON file should meet, such as NUL, as ``U+0000``; None: all is fine."""
    found = _UNUSABLE.search("\n".join(texts))
    return f"U+{ord(found[0]):04X}" if found else None
