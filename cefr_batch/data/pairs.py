"""Sentence pairs, a word and a sentence that uses it: what list-format examples are built from."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cefr_batch.data.inflection import uses_word
from cefr_batch.data.reading import (
    Findings,
    at_index,
    file_error,
    json_items,
    parse_json,
    read_text,
    unusable_character,
)
from cefr_batch.errors import DataError, Problem

if TYPE_CHECKING:
    from cefr_batch.levels import Level

_REQUEST = re.compile(r"^Generate an? \S+ sentence with (?:the word )?(.+)$", re.DOTALL)
_JSONL = (".jsonl", ".ndjson")
PAIRS_ONLY = (".csv", *_JSONL)  # examples in list format are one JSON list
_DELIMITERS = (",", ";", "\t")


class Pair(NamedTuple):
    """Both on one line: runs of white space are single blanks."""

    word: str
    sentence: str


def read_pairs(source: str, level: Level) -> list[Pair]:
    """The pairs of a file (.json, .jsonl, .csv), or of the level's starter corpus. Raises ``DataError``."""
    from cefr_batch.levels import STARTER  # late: this takes longer than the check of a small file

    pairs, findings = check_pairs(starter_file(level) if source == STARTER else Path(source), warn=False)
    findings.raise_errors()
    return pairs


def starter_file(level: Level) -> Path:
    """The level's CSV file in the installed package."""
    return Path(str(files("cefr_batch.data") / "starter" / f"{level.value.lower()}.csv"))


def holds_pairs(path: Path) -> bool:
    """Whether a file, as its name or its first record says, holds pairs rather than examples in list format."""
    if path.suffix.lower() in PAIRS_ONLY:
        return True
    try:
        return is_pair(next(json_items(path), None))
    except DataError:
        return False


def is_pair(record: Any) -> bool:
    """Whether a record is meant as a pair."""
    if not isinstance(record, Mapping) or "instruction" in record:
        return False
    return "word" in record or "sentence" in record or bool(_REQUEST.match(str(record.get("input"))))


def check_pairs(path: Path, *, warn: bool = True) -> tuple[list[Pair], Findings]:
    """A file's good pairs, and what is wrong with the others; ``warn=False`` is faster."""
    findings = Findings()
    pairs: list[Pair] = []
    first_place: dict[Pair, str] = {}
    try:
        for where, record in _records(path, findings):
            pair = _pair(where, record, findings)
            if pair is None:
                continue
            pairs.append(pair)
            if warn:
                first = first_place.setdefault(pair, where)
                same = first.removeprefix(f"{path}: ") if first != where else None
                findings.warnings += [Problem(where, what) for what in _doubts(pair, same)]
    except DataError as exc:
        findings.errors += exc.problems
    if not pairs and not findings.errors:
        findings.errors.append(Problem(str(path), "has no sentence pairs"))
    return pairs, findings


def _doubts(pair: Pair, same: str | None) -> Iterator[str]:
    if same:
        yield f"the same word and sentence as {same}"
    if not uses_word(pair.sentence, pair.word):
        yield f"{pair.word!r} is not in its sentence: {pair.sentence!r}"


def _records(path: Path, findings: Findings) -> Iterator[tuple[str, Any]]:
    """Each record with the place where it stands. Raises ``DataError`` where the file cannot be read on."""
    suffix = path.suffix.lower()
    text = read_text(path)
    if suffix == ".csv":
        yield from _csv_records(path, text, findings)
    elif suffix in _JSONL:
        yield from _jsonl_records(path, text, findings)
    elif suffix == ".json":
        items = parse_json(path, text)
        if not isinstance(items, list):
            raise file_error(path, "must be a JSON list of pairs (word and sentence)")
        if items and isinstance(items[0], dict) and "instruction" in items[0]:
            raise file_error(path, "holds examples in list format; give it as data.train or data.eval, not data.source")
        yield from ((at_index(path, index), item) for index, item in enumerate(items))
    else:
        raise file_error(path, "unknown kind of file; sentence pairs are .csv, .jsonl or .json")


def _jsonl_records(path: Path, text: str, findings: Findings) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"{path}: line {number}", parse_json(path, line, number)
        except DataError as exc:
            findings.errors += exc.problems


def _csv_records(path: Path, text: str, findings: Findings) -> Iterator[tuple[str, Mapping[str, str]]]:
    delimiter = _delimiter(path, text)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip().casefold() for name in next(row for row in rows if row)]
        for row in rows:
            where = f"{path}: line {rows.line_num}"
            if len(row) > len(header):
                what = f"{len(row)} fields instead of {len(header)}: a sentence with {delimiter!r} needs double quotes"
                findings.errors.append(Problem(where, what))
            elif any(cell.strip() for cell in row):
                yield where, dict(zip(header, row, strict=False))
    except csv.Error as exc:
        raise file_error(path, f"is not valid CSV: line {rows.line_num}: {exc}") from exc


def _delimiter(path: Path, text: str) -> str:
    """What separates the header's columns; Excel writes ``;`` where the decimal sign is a comma."""
    header = text.lstrip().partition("\n")[0]
    for delimiter in _DELIMITERS:
        names = [name.strip().strip('"').casefold() for name in header.split(delimiter)]
        if {"word", "sentence"} <= set(names):
            return delimiter
    raise file_error(path, f"the first line must be the header word,sentence (it is {header.strip()[:60]!r})")


def _pair(where: str, record: Any, findings: Findings) -> Pair | None:
    try:
        word, sentence = _fields(record)
    except ValueError as exc:
        findings.errors.append(Problem(where, str(exc)))
        return None
    pair = Pair(" ".join(word.split()), " ".join(sentence.split()))
    character = unusable_character((word, sentence))
    if all(pair) and not character:
        return pair
    wrong = [f"the {name} is empty" for name, text in pair._asdict().items() if not text]
    if character:
        wrong.append(f"has the control or broken character {character}; remove it")
    findings.errors += [Problem(where, what) for what in wrong]
    return None


def _fields(record: Any) -> tuple[str, str]:
    """The word and the sentence of a record. Raises ``ValueError`` with the reason."""
    if not isinstance(record, Mapping):
        raise ValueError("must be an object with word and sentence")
    names = ("input", "output") if "input" in record and "output" in record else ("word", "sentence")
    missing = [name for name in names if name not in record]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing; a pair has word and sentence (or input and output)")
    word, sentence = (record[name] for name in names)
    if not isinstance(word, str) or not isinstance(sentence, str):
        raise ValueError(f"{names[0]} and {names[1]} must both be text")
    if names == ("word", "sentence"):
        return word, sentence
    request = _REQUEST.match(word.strip())
    if not request:
        raise ValueError(f"input {word[:60]!r} must look like 'Generate a B1-level sentence with absolutely'")
    return request[1], sentence


def distinct(pairs: Iterable[Pair]) -> list[Pair]:
    """Each pair once, in order."""
    return list(dict.fromkeys(pairs))
