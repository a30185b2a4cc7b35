"""Reading data files: what is wrong with them comes out as one sentence that says where."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cefr_batch.errors import DataError, Problem

_UNUSABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")

# The bytes that these characters have in UTF-8, and few others: a text without them needs no closer look.
_SUSPECT = bytes([*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F, 0xC2, 0xED, 0xEF])

_PIECE = 1 << 20  # characters of a JSON file that are read at a time


@dataclass
class Findings:
    """What a check found: errors make the data unusable, warnings deserve a look."""

    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def raise_errors(self) -> None:
        """Raise ``DataError`` with all errors, if there is any."""
        if self.errors:
            raise DataError(self.errors)


def read_text(path: Path) -> str:
    """A UTF-8 file's text without its byte order mark. Raises ``DataError``."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as exc:
        raise file_error(path, "no such file") from exc
    except IsADirectoryError as exc:
        raise file_error(path, "is a folder; give a file") from exc
    except OSError as exc:
        raise file_error(path, f"cannot be read: {exc.strerror or exc}") from exc
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise file_error(path, _encoding_problem(data, exc)) from exc
    if not text.strip():
        raise file_error(path, "is empty")
    return text


def _encoding_problem(data: bytes, exc: UnicodeDecodeError) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "is UTF-16, not UTF-8; save it again as UTF-8 (in Excel: CSV UTF-8)"
    line = data.count(b"\n", 0, exc.start) + 1
    byte = data[exc.start]
    return f"is not UTF-8: byte 0x{byte:02x} at offset {exc.start} (line {line}); save it again as UTF-8"


def parse_json(path: Path, text: str, line: int | None = None) -> Any:
    """The value of a JSON text: a whole file, or one line of a JSONL file. Raises ``DataError``."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        at = f"line {line or exc.lineno}, column {exc.colno}"
        raise file_error(path, f"is not valid JSON: {at}: {exc.msg}") from exc
    except (ValueError, RecursionError) as exc:
        at = f"line {line}: " if line else ""
        raise file_error(path, f"is not valid JSON: {at}{exc}") from exc


def json_items(path: Path) -> Iterator[Any]:
    """The items of a file's JSON list, one in memory at a time. Raises ``DataError``.

    A file that cannot be read so is read whole: its problem is then told with line and column.
    """
    read = 0
    try:
        for item in _streamed(path):
            yield item
            read += 1
        return
    except (OSError, ValueError, RecursionError):
        items = parse_json(path, read_text(path))
    if not isinstance(items, list):
        raise file_error(path, f"must be a JSON list of examples, but is {kind(items)}")
    yield from items[read:]


def _streamed(path: Path) -> Iterator[Any]:
    """Items as they come off the file. Raises ``ValueError`` if it is no list or an item is longer than 16 pieces."""
    decode = json.JSONDecoder().raw_decode
    with path.open(encoding="utf-8-sig", newline="") as file:
        text = file.read(_PIECE).lstrip()
        if not text.startswith("["):
            raise ValueError("no list")
        at = 1
        while True:
            try:
                item, end = decode(text, _after_blanks(text, at))
                end = _after_blanks(text, end)
                separator = text[end]
            except (ValueError, IndexError) as exc:  # cut off, or wrong
                piece = file.read(_PIECE)
                text, at = text[at:] + piece, 0
                if not piece or len(text) > 16 * _PIECE:
                    raise ValueError("no item") from exc
                continue
            yield item
            at = end + 1
            if separator != ",":
                if separator != "]" or (text[at:] + file.read()).strip():
                    raise ValueError("no list")
                return


def _after_blanks(text: str, at: int) -> int:
    while text[at] in " \n\r\t":
        at += 1
    return at


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def file_error(path: Path, what: str) -> DataError:
    return DataError([Problem(str(path), what)])


def at_index(path: Path, index: int) -> str:
    return f"{path}: index {index} (from 0)"


def unusable_character(texts: Sequence[str]) -> str | None:
    """The first character that no tokenizer or JSON file should meet, such as NUL, as ``U+0000``; None: all is fine."""
    data = "".join(texts).encode("utf-8", "surrogatepass")
    if len(data.translate(None, _SUSPECT)) == len(data):
        return None
    found = next((match for text in texts if (match := _UNUSABLE.search(text))), None)
    return f"U+{ord(found[0]):04X}" if found else None
