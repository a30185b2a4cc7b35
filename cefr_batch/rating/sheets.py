"""Saved ratings, as the form writes them (JSON, CSV) and as spreadsheet programs write them again, → ``Sheet``.

CSV: columns in any order, separated by comma, semicolon or tab; UTF-8 with or without a byte-order mark, UTF-16 with one
(Excel's "Unicode text"), or else Windows-1254, in which Excel in Turkey writes.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from typing import Any

from cefr_batch.errors import Problem
from cefr_batch.rating.criteria import CRITERIA, RATER_RULE, SCALE, rater_id

VALID = f"a whole number from {SCALE[0]} to {SCALE[-1]}, or empty"

_COLUMNS = ("form", "rater", "item", *CRITERIA)
_WHOLE = re.compile(r"\s*(\d)(?:[.,]0+)?\s*", re.ASCII)  # 4, and 4.0 or 4,0 of a column formatted with decimals


@dataclass
class Sheet:
    """What one file says of one rater's work on one form; ``ratings``: item → criterion → value, nothing for a gap."""

    file: str
    form: str
    rater: str
    ratings: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Row:
    where: str
    cells: Mapping[str, Any]  # by _COLUMNS


class _Unreadable(Exception):
    """A file that is no saved form."""


def read_sheets(path: Path, problems: list[Problem]) -> list[Sheet]:
    """The sheets of a file, a CSV file can hold several; what is wrong with it is added to ``problems``."""
    try:
        rows = list(_rows(path))
    except _Unreadable as exc:
        problems.append(Problem(str(path), str(exc)))
        return []
    sheets: dict[tuple[str, str], Sheet] = {}
    for row in rows:
        rater = rater_id(str(row.cells["rater"] or ""))
        if rater is None:
            problem = Problem(row.where, f"rater {short(row.cells['rater'])} is not a valid id; valid: {RATER_RULE}")
            problems.extend([problem] if problem not in problems else [])
            continue
        form = str(row.cells["form"] or "").strip()
        sheet = sheets.setdefault((form, rater), Sheet(str(path), form, rater))
        _add(sheet, row, problems)
    return list(sheets.values())


def named(item: str) -> str:
    """An item in a message, whatever a file calls it."""
    return f"item {item if item.isalnum() else short(item)}"


def _add(sheet: Sheet, row: _Row, problems: list[Problem]) -> None:
    item = str(row.cells["item"] or "").strip()
    where = f"{row.where}, {named(item)}"
    if item in sheet.ratings:
        problems.append(Problem(where, f"is there twice for rater {sheet.rater}; keep one"))
        return
    values = sheet.ratings[item] = {}
    for criterion in CRITERIA:
        given = row.cells[criterion]
        if given is None or (isinstance(given, str) and not given.strip()):
            continue
        value = _value(given)
        if value is None:
            problems.append(Problem(f"{where}, {criterion}", f"{short(given)} is not valid; valid: {VALID}"))
        else:
            values[criterion] = value


def _value(given: Any) -> int | None:
    match = _WHOLE.fullmatch(given) if isinstance(given, str) else None
    number = int(match[1]) if match else given
    return number if type(number) is int and number in SCALE else None


def _rows(path: Path) -> Iterator[_Row]:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise _Unreadable(f"cannot be read: {exc.strerror or exc}") from exc
    kind = path.suffix.lower()
    if kind not in (".json", ".csv"):
        raise _Unreadable("must be a .json or .csv file that a rating form saved")
    return _json_rows(path, data) if kind == ".json" else _csv_rows(path, data)


def _json_rows(path: Path, data: bytes) -> Iterator[_Row]:
    try:
        saved = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as exc:
        raise _Unreadable(f"is not valid JSON ({exc}); was it cut off? Save it again from the form") from exc
    rows = saved.get("ratings") if isinstance(saved, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _Unreadable("is not a file that a rating form saved: it has no list of ratings")
    common = {name: saved.get(name) for name in ("form", "rater")}
    _only_known({*saved, *(key for row in rows for key in row)} - {"ratings"})
    for row in rows:
        yield _Row(str(path), {name: row.get(name) for name in _COLUMNS} | common)


def _csv_rows(path: Path, data: bytes) -> Iterator[_Row]:
    text = _decoded(data)
    heading = text.partition("\n")[0]
    separator = max(",;\t", key=heading.count)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as exc:
        raise _Unreadable(f"is not valid CSV ({exc})") from exc
    names = [name.strip() for name in lines[0]] if lines else []
    missing = [name for name in _COLUMNS if name not in names]
    if missing:
        raise _Unreadable(f"has no column {', '.join(missing)}; the first line must name {', '.join(_COLUMNS)}")
    _only_known({name for name in names if name})
    for number, cells in enumerate(lines[1:], 2):
        if any(cell.strip() for cell in cells):
            padded = [*cells, *[""] * (len(names) - len(cells))]
            yield _Row(f"{path}, line {number}", {name: padded[names.index(name)] for name in _COLUMNS})


def _only_known(names: set[str]) -> None:
    unknown = sorted(names - set(_COLUMNS))
    if unknown:
        raise _Unreadable(f"has unknown names: {', '.join(map(short, unknown))}; valid: {', '.join(_COLUMNS)}")


def _decoded(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1254", errors="replace")
