"""The store → ``Report``: which runs count for which level, and what is in them. Reads nothing but the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cefr_batch import layout
from cefr_batch.errors import NotFound, StoreError
from cefr_batch.launch.base import State
from cefr_batch.launch.state import RunState, run_states
from cefr_batch.levels import Level
from cefr_batch.report.stored import ManifestFile, MetricsFile, SpecFile, StoredObject, explain
from cefr_batch.store import Store, to_json

MISSING = "MISSING"  # the state of a level that has no run

D = TypeVar("D", bound=BaseModel)


@dataclass(frozen=True)
class Result:
    """A complete run. ``raw`` is ``metrics.json`` as stored; the keys of ``objects`` are relative to the run."""

    run: str
    metrics: MetricsFile
    raw: Mapping[str, Any]
    spec: Mapping[str, Any]
    dataset: str
    complete_at: str
    objects: tuple[StoredObject, ...]


@dataclass(frozen=True)
class Entry:
    """One level of the report, or one run where the user named runs.

    ``passed``: the runs newer than the result's, which have no figures, newest first; all of the level's runs if there
    is no result.
    """

    level: str
    result: Result | None
    passed: tuple[RunState, ...]

    @property
    def newest(self) -> str | None:
        """The newest run, whose ``state`` and ``reason`` are the entry's."""
        if self.passed:
            return self.passed[0].run
        return self.result.run if self.result else None

    @property
    def state(self) -> str:
        if self.passed:
            return self.passed[0].state.value
        return State.SUCCEEDED.value if self.result else MISSING

    @property
    def reason(self) -> str:
        return self.passed[0].reason if self.passed else ""


@dataclass(frozen=True)
class Report:
    """Everything a renderer needs; the entries are in the order of the levels."""

    store: str
    entries: tuple[Entry, ...]

    def label(self, entry: Entry) -> str:
        """The level, or the run's name where a level stands here more than once."""
        alone = sum(e.level == entry.level for e in self.entries) == 1
        return entry.level if alone or not entry.newest else entry.newest


class Unreadable(Exception):
    """An object of a complete run that is missing, damaged or not as expected: the run has no figures."""


def collect(store: Store, *, runs: Sequence[str] = (), levels: Sequence[str] = ()) -> Report:
    """The runs named and each level's newest complete run; without either, every level that has a run.

    A level whose newest run has no figures keeps that run's state and reason beside the older figures; a level without
    a run is ``MISSING``.
    """
    known = _known_runs(store, runs, levels)
    searches = [_Search(k.level, [k.run]) for k in known if k.run in runs]
    for level in levels or ([] if runs else {k.level for k in known}):
        searches.append(_Search(level, [k.run for k in known if k.level == level]))
    for search in searches:
        search.find(store)
    states = {state.run: state for state in run_states(store, [run for search in searches for run in search.passed])}
    entries = {entry.newest or entry.level: entry for entry in (search.entry(states) for search in searches)}
    return Report(store.url, tuple(sorted(entries.values(), key=_order)))


def _order(entry: Entry) -> tuple[int, str, int, str]:
    levels = [level.value for level in Level]
    place = levels.index(entry.level) if entry.level in levels else len(levels)
    run = entry.newest or ""
    return place, entry.level, layout.run_version(run), run


@dataclass(frozen=True)
class _Known:
    run: str
    level: str
    submitted_at: str


def _known_runs(store: Store, runs: Sequence[str], levels: Sequence[str]) -> list[_Known]:
    """The store's runs that can matter, newest first."""
    names = [name for name in store.folders(f"{layout.RUNS}/") if layout.is_run_name(name)]
    if runs or levels:
        names = [n for n in names if n in runs or layout.run_level(n) in (*levels, None)]
    known = [_describe(store, name) for name in names]
    return sorted(known, key=lambda k: (k.submitted_at, layout.run_version(k.run), k.run), reverse=True)


def _describe(store: Store, run: str) -> _Known:
    level = layout.run_level(run)
    try:
        spec = _checked(SpecFile, _stored(store, run, layout.SPEC), layout.SPEC)
    except Unreadable:
        return _Known(run, level or "unknown", "")
    return _Known(run, level or str(spec.spec.get("level", "unknown")), spec.submitted_at)


@dataclass
class _Search:
    """From a level's newest run down to one with figures. ``passed``: those without, and what was unreadable."""

    level: str
    candidates: list[str]
    passed: dict[str, str | None] = field(default_factory=dict)
    result: Result | None = None

    def find(self, store: Store) -> None:
        for run in self.candidates:
            problem = None
            if store.exists(layout.run_key(run, layout.MANIFEST)):
                try:
                    self.result = read_result(store, run)
                    return
                except Unreadable as exc:
                    problem = str(exc)
            self.passed[run] = problem

    def entry(self, states: Mapping[str, RunState]) -> Entry:
        passed = [replace(states[r], reason=problem or states[r].reason) for r, problem in self.passed.items()]
        return Entry(self.level, self.result, tuple(passed))


def read_result(store: Store, run: str) -> Result:
    """A complete run's figures. Raises ``Unreadable``."""
    raw = _stored(store, run, layout.METRICS)
    metrics = _checked(MetricsFile, raw, layout.METRICS)
    spec = _checked(SpecFile, _stored(store, run, layout.SPEC), layout.SPEC)
    manifest = _checked(ManifestFile, _stored(store, run, layout.MANIFEST), layout.MANIFEST)
    return Result(run, metrics, raw, spec.spec, spec.dataset, manifest.complete_at, tuple(manifest.objects))


def _stored(store: Store, run: str, name: str) -> Any:
    try:
        raw = store.get_json(layout.run_key(run, name))
        to_json(raw)  # what the report could not pass on, such as NaN
    except NotFound:
        raise Unreadable(f"unreadable {name.removesuffix('.json')}: {name} is missing") from None
    except (StoreError, ValueError) as exc:
        raise Unreadable(f"unreadable {name.removesuffix('.json')}: {exc}") from exc
    return raw


def _checked(kind: type[D], raw: Any, name: str) -> D:
    try:
        return kind.model_validate(raw)
    except ValidationError as exc:
        raise Unreadable(f"unreadable {name.removesuffix('.json')}: {explain(exc)}") from exc
