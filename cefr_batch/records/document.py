"""The base of every stored JSON document: strict on read, one form on write, a ``schema`` number for later versions.

A document has a schema number, which is raised whenever an older reader would misunderstand it. Version 0.1.0 wrote none,
which counts as schema 1. A newer program reads all older schemas; an older program that meets a newer one says so.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from cefr_batch.errors import Damaged, StoreError, cut_short
from cefr_batch.files import json_bytes, write_bytes

SCHEMA = "schema"  # the key of a document's schema number
_SHOWN = 4  # problems in one message
_LONGEST = 100  # characters of a key in one
_RESTORE = "Restore it from a copy"

Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Settings = dict[str, JsonValue]  # a run's settings as they were recorded, by whichever version


class Part(BaseModel):
    """A part of a document. Immutable; no silent conversions, no NaN; unknown keys are of later versions and ignored."""

    model_config = ConfigDict(
        extra="ignore", strict=True, frozen=True, allow_inf_nan=False, populate_by_name=True, protected_namespaces=()
    )


class StoredRecord(Part):
    """A whole document. ``SCHEMA_VERSION`` is the newest schema that this version reads and the one that it writes."""

    SCHEMA_VERSION: ClassVar[int] = 1


R = TypeVar("R", bound=StoredRecord)


def parse(kind: type[R], data: bytes, where: str) -> R:
    """The document in ``data``; ``where`` names it in messages.

    Raises ``Damaged`` for anything that is not such a document, whatever the bytes are, and ``StoreError`` for a newer
    schema.
    """
    try:
        document = json.loads(
            data.decode(), object_pairs_hook=_without_repeats, parse_constant=_no_number, parse_float=_finite
        )
    except (ValueError, RecursionError) as exc:
        raise Damaged(f"{where} is not valid JSON ({exc}); was it edited or cut off? {_RESTORE}") from exc
    _check_schema(kind, document, where)
    try:
        return kind.model_validate_json(data)
    except ValidationError as exc:
        raise Damaged(
            f"{where} does not have the expected content ({explain(exc)}); was it edited? {_RESTORE}"
        ) from exc


def dump(record: StoredRecord) -> bytes:
    """The document as it is stored: what the writer set, under the names of the fields, with the schema number."""
    content = record.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return json_bytes({SCHEMA: record.SCHEMA_VERSION, **content})


def read_file(kind: type[R], path: Path) -> R:
    """The document in a file. Raises ``OSError`` if the file cannot be read, ``StoreError`` as ``parse`` does."""
    return parse(kind, path.read_bytes(), str(path))


def write_file(path: Path, record: StoredRecord) -> None:
    """Replace ``path`` atomically; its folder is made if needed."""
    write_bytes(path, dump(record))


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Of a key that stands there twice readers take the first or the last: it may say two things."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {_short(repr(twice))} occurs more than once")
    return found


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _short(text: str) -> str:
    """A text of a document in a message."""
    return cut_short(text, _LONGEST)


def explain(exc: ValidationError) -> str:
    """What is wrong with a document, by key, in one line."""
    errors = exc.errors()
    parts = [
        f"{_short('.'.join(map(str, e['loc']))) or 'the document'}: {_reason(e['type'], e['msg'])}"
        for e in errors[:_SHOWN]
    ]
    more = [f"and {len(errors) - _SHOWN} more"] if len(errors) > _SHOWN else []
    return "; ".join(parts + more)


def _reason(kind: str, message: str) -> str:
    return "missing" if kind == "missing" else message.replace("Input should be", "must be")


def _check_schema(kind: type[StoredRecord], document: Any, where: str) -> None:
    schema = document.get(SCHEMA, 1) if isinstance(document, dict) else 1
    if type(schema) is not int or schema < 1:
        raise Damaged(
            f"{where} does not have the expected content ({SCHEMA}: must be a whole number, at least 1); was it edited? "
            f"{_RESTORE}"
        )
    if schema > kind.SCHEMA_VERSION:
        raise StoreError(
            f"{where} has schema {schema}, and this version of cefr-batch knows schemas up to {kind.SCHEMA_VERSION}; "
            "upgrade cefr-batch to read it"
        )
