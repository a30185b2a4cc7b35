"""Saved ratings, as the form writes them (JSON, CSV) and as spreadsheet programs write them again, → ``RaterSubmission``.

A CSV file is read as ``data.io`` reads every table. Forms before 0.2 asked for no level and no qualification; their files
lack these columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from typing import Any, TypeVar, get_args

from cefr_batch.data.io import read_table
from cefr_batch.errors import Problem
from cefr_batch.human_eval.criteria import CRITERIA, RATER_RULE, SCALE, rater_id
from cefr_batch.records.ratings import Qualification, RatedLevel

VALID = f"a whole number from {SCALE[0]} to {SCALE[-1]}, or empty"

_REQUIRED = ("form", "rater", "item", *CRITERIA)
_OPTIONAL = ("level", "qualification")
_COLUMNS = (*_REQUIRED, *_OPTIONAL)
_LEVELS: dict[str, RatedLevel] = {name: name for name in get_args(RatedLevel)}
_QUALIFICATIONS: dict[str, Qualification] = {name: name for name in get_args(Qualification)}
Choice = TypeVar("Choice", bound=str)
_WHOLE = re.compile(r"\s*(\d)(?:[.,]0+)?\s*", re.ASCII)  # 4, and 4.0 or 4,0 of a column formatted with decimals


@dataclass
class RaterSubmission:
    """What one file says of one rater's work on one form; ``ratings``: item → criterion → value, nothing for a gap.

    ``levels``: item → level, likewise.
    """

    file: str
    form: str
    rater: str
    qualification: Qualification | None
    ratings: dict[str, dict[str, int]] = field(default_factory=dict)
    levels: dict[str, RatedLevel] = field(default_factory=dict)


@dataclass(frozen=True)
class _Row:
    where: str
    cells: Mapping[str, Any]  # by _COLUMNS; None or nothing for a gap

    def cell(self, name: str) -> str:
        """A cell's text without white space around it; of a gap none."""
        value = self.cells.get(name)
        return "" if value is None else str(value).strip()


class _Unreadable(Exception):
    """A file that is no saved form."""


def read_submissions(path: Path, problems: list[Problem]) -> list[RaterSubmission]:
    """The submissions in a file (a CSV file can hold several); everything wrong with it is added to ``problems``."""
    try:
        rows = list(_rows(path, problems))
    except _Unreadable as exc:
        problems.append(Problem(str(path), str(exc)))
        return []
    submissions: dict[tuple[str, str], RaterSubmission] = {}
    for row in rows:
        rater = rater_id(row.cell("rater"))
        if rater is None:
            problem = Problem(
                row.where, f"rater {short(row.cells.get('rater'))} is not a valid id; valid: {RATER_RULE}"
            )
            problems.extend([problem] if problem not in problems else [])
            continue
        form = row.cell("form")
        qualification = _qualification(row, problems)
        submission = submissions.get((form, rater)) or RaterSubmission(str(path), form, rater, qualification)
        if qualification and submission.qualification is None:  # it need not be in each row
            submission.qualification = qualification
        elif qualification and qualification != submission.qualification:
            what = f"{qualification} differs from {submission.qualification}, which rater {rater} has in an earlier row"
            problems.append(Problem(f"{row.where}, qualification", f"{what}; keep one"))
        submissions[form, rater] = submission
        _add(submission, row, problems)
    return list(submissions.values())


def _qualification(row: _Row, problems: list[Problem]) -> Qualification | None:
    """Of a row; a JSON file has one for all, of which each problem is told once."""
    found: list[Problem] = []
    value = _choice(row, "qualification", _QUALIFICATIONS, row.where, found)
    problems.extend(one for one in found if one not in problems)
    return value


def named(item: str) -> str:
    """An item's name as a message shows it; anything but letters and digits is quoted and cut short."""
    return f"item {item if item.isalnum() else short(item)}"


def _add(submission: RaterSubmission, row: _Row, problems: list[Problem]) -> None:
    item = row.cell("item")
    where = f"{row.where}, {named(item)}"
    if item in submission.ratings:
        problems.append(Problem(where, f"is listed twice for rater {submission.rater}; keep one"))
        return
    values = submission.ratings[item] = {}
    for criterion in CRITERIA:
        given = row.cells.get(criterion)
        if given is None or (isinstance(given, str) and not given.strip()):
            continue
        value = _value(given)
        if value is None:
            problems.append(Problem(f"{where}, {criterion}", f"{short(given)} is not valid; valid: {VALID}"))
        else:
            values[criterion] = value
    if level := _choice(row, "level", _LEVELS, where, problems):
        submission.levels[item] = level


def _choice(row: _Row, name: str, valid: Mapping[str, Choice], where: str, problems: list[Problem]) -> Choice | None:
    """What a cell names of the valid values, in upper or lower case; None of a gap, or with a problem added."""
    given = row.cell(name)
    found = valid.get(given) or valid.get(given.upper())
    if given and not found:
        problems.append(
            Problem(f"{where}, {name}", f"{short(given)} is not valid; valid: {', '.join(valid)}, or empty")
        )
    return found


def _value(given: Any) -> int | None:
    match = _WHOLE.fullmatch(given) if isinstance(given, str) else None
    number = int(match[1]) if match else given
    return number if type(number) is int and number in SCALE else None


def _rows(path: Path, problems: list[Problem]) -> Iterator[_Row]:
    kind = path.suffix.lower()
    if kind not in (".json", ".csv"):
        raise _Unreadable("must be a .json or .csv file that a rating form saved")
    return _json_rows(path) if kind == ".json" else _csv_rows(path, problems)


def _json_rows(path: Path) -> Iterator[_Row]:
    try:
        saved = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as exc:
        raise _Unreadable(f"cannot be read: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise _Unreadable(f"is not valid JSON ({exc}); was it cut off? Save it again from the form") from exc
    rows = saved.get("ratings") if isinstance(saved, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _Unreadable("is not a file that a rating form saved: it has no list of ratings")
    common = {name: saved.get(name) for name in ("form", "rater", "qualification")}
    _only_known({*saved, *(key for row in rows for key in row)} - {"ratings"})
    for row in rows:
        yield _Row(str(path), {**row, **common})


def _csv_rows(path: Path, problems: list[Problem]) -> Iterator[_Row]:
    file = read_table(path, _REQUIRED, _OPTIONAL)
    problems += file.diagnostics.errors
    _only_known({name for _, cells in file.records for name in cells if name})
    for number, cells in file.records:
        yield _Row(f"{path}, line {number}", cells)


def _only_known(names: set[str]) -> None:
    unknown = sorted(names - set(_COLUMNS))
    if unknown:
        raise _Unreadable(f"has unknown names: {', '.join(map(short, unknown))}; valid: {', '.join(_COLUMNS)}")
