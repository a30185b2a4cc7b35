"""A ``report.json`` against the store: are its objects the ones that it was made from, and do its figures follow from them?

What followed from the moment is not compared: the states of runs without figures, and where the store lies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from pydantic import JsonValue

from cefr_batch import __version__
from cefr_batch.errors import CefrBatchError, NotFound, StoreError, Unavailable, UsageError, cut_short
from cefr_batch.records.document import SCHEMA, read_file
from cefr_batch.records.report import ReportedLevel, ReportRecord
from cefr_batch.report.as_json import report_json
from cefr_batch.report.collect import Entry, Report, Unreadable, assembled, read_result
from cefr_batch.store.base import READERS, Store
from cefr_batch.store.transfer import TransferItem
from cefr_batch.store.views import PinnedStore

CLOSE = 1e-9  # relative: another processor or library may round the last digits otherwise
_LONGEST = 80  # letters of a value in a message
_OF_THE_MOMENT = {"newest_run", "state", "reason", "runs_without_figures"}  # of a level
_OF_THE_FILE = {SCHEMA, "made_by", "made_from", "store"}


@dataclass(frozen=True)
class FigureDifference:
    """A value at ``place`` (``comparison.rows[0].values[1]``): in the file, and as it follows from the store. None
    where one of the two has none."""

    place: str
    stated: JsonValue
    computed: JsonValue

    def __str__(self) -> str:
        return f"{self.place} is {_short(self.stated)}, but the store gives {_short(self.computed)}"


@dataclass(frozen=True)
class ReportCheck:
    """What was compared, and what is wrong. With wrong ``objects`` no figure was compared.

    ``objects``: why each of these is not the one that the report was made from; ``made_by``: the version that wrote the
    file.
    """

    made_by: str
    compared_objects: int
    compared_values: int
    objects: tuple[str, ...]
    differences: tuple[FigureDifference, ...]

    @property
    def other_version(self) -> bool:
        """Whether another version of cefr-batch wrote the file, which may have computed otherwise."""
        return self.made_by != __version__


def check_report(store: Store, file: Path) -> ReportCheck:
    """Recompute a ``report.json`` from the objects that it names, whatever else the store has by now.

    Blocks on the store. Raises ``StoreError`` for a file that is no ``report.json``, or one that names no objects or is
    of a newer version, and ``Unavailable`` if the store is.
    """
    record, document = _read(file)
    items = [TransferItem(one.key, one.size, one.sha256) for one in record.made_from]
    pinned = PinnedStore(store, items, str(file))
    wrong = tuple(_wrong_objects(pinned, items))
    if wrong:
        return ReportCheck(record.made_by, len(items), 0, wrong, ())
    try:
        computed = json.loads(json.dumps(report_json(_recomputed(pinned, record.levels))))
    except Unreadable as exc:
        return ReportCheck(record.made_by, len(items), 0, (str(exc),), ())
    pairs = list(_pairs("", _comparable(document), _comparable(computed)))
    different = tuple(one for one in pairs if not _same(one.stated, one.computed))
    return ReportCheck(record.made_by, len(items), len(pairs), (), different)


def _read(file: Path) -> tuple[ReportRecord, JsonValue]:
    again = "make the report again (`cefr-batch report --out FOLDER`) to have one that can be checked"
    try:
        document = json.loads(file.read_bytes())
        record = read_file(ReportRecord, file)
    except OSError as exc:
        raise UsageError(f"--check: cannot read {file}: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise CefrBatchError(f"{file} is not a report.json: it is not valid JSON ({exc}); {again}") from exc
    if not record.made_from:
        raise CefrBatchError(
            f"{file} does not name the objects that it was made from, as those of version 0.1.0; {again}"
        )
    return record, document


def _wrong_objects(store: PinnedStore, items: Sequence[TransferItem]) -> Iterator[str]:
    """Why objects are not as they are named, one sentence each, in the order of ``items``."""

    def problem(item: TransferItem) -> str:
        try:
            store.get(item.key)
        except Unavailable:
            raise
        except NotFound:
            return f"{store.locate(item.key)} is missing"
        except StoreError as exc:
            return str(exc)
        return ""

    with ThreadPoolExecutor(READERS) as pool:
        yield from filter(None, pool.map(problem, items))


def _recomputed(store: Store, levels: Sequence[ReportedLevel]) -> Report:
    """The report of the same runs in the same places. Raises ``Unreadable``."""
    entries = (
        Entry(
            level.level,
            level.newest_run,
            level.state,
            level.reason,
            tuple(read_result(store, r.run) for r in level.results),
        )
        for level in levels
    )
    return assembled(store, tuple(entries))


def _comparable(document: JsonValue) -> JsonValue:
    """The document without what is not compared."""
    if not isinstance(document, dict):
        return document
    kept = {key: value for key, value in document.items() if key not in _OF_THE_FILE}
    if isinstance(levels := kept.get("levels"), list):
        kept["levels"] = [
            {key: value for key, value in level.items() if key not in _OF_THE_MOMENT}
            if isinstance(level, dict)
            else level
            for level in levels
        ]
    return kept


def _pairs(place: str, stated: JsonValue, computed: JsonValue) -> Iterator[FigureDifference]:
    """The values of both at the same places, whether they differ or not; a part that only one has is one pair."""
    if isinstance(stated, dict) and isinstance(computed, dict):
        for key in dict.fromkeys((*stated, *computed)):
            yield from _pairs(f"{place}.{key}".lstrip("."), stated.get(key), computed.get(key))
    elif isinstance(stated, list) and isinstance(computed, list) and len(stated) == len(computed):
        for number, (one, other) in enumerate(zip(stated, computed, strict=True)):
            yield from _pairs(f"{place}[{number}]", one, other)
    else:
        yield FigureDifference(place, stated, computed)


def _same(stated: JsonValue, computed: JsonValue) -> bool:
    if _is_number(stated) and _is_number(computed):
        try:
            return math.isclose(stated, computed, rel_tol=CLOSE, abs_tol=0.0)
        except OverflowError:  # a whole number that no figure is
            return False
    return type(stated) is type(computed) and stated == computed


def _is_number(value: JsonValue) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: JsonValue) -> str:
    return cut_short(json.dumps(value, ensure_ascii=False), _LONGEST)
