"""The store → ``Report``: which runs count for which level, and what is in them. Reads nothing but the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from cefr_batch import layout
from cefr_batch.errors import NotFound, StoreError
from cefr_batch.launch.base import State
from cefr_batch.launch.state import RunState, run_states
from cefr_batch.levels import Level, ReferenceSpec
from cefr_batch.rating.scores import Ratings, collect_ratings
from cefr_batch.report.statistics import Sums, together
from cefr_batch.report.stored import (
    Attempt,
    EvaluationFile,
    GenerationFile,
    ManifestFile,
    MetricsFile,
    SpecFile,
    StoredObject,
    WrittenExample,
    explain,
)
from cefr_batch.store import Store, to_json

MISSING = "MISSING"  # the state of a level that has no run
_READERS = 16  # runs are read at the same time: a store may be far away

D = TypeVar("D", bound=BaseModel)


@dataclass(frozen=True)
class Result:
    """A complete run. ``raw`` is ``metrics.json`` as stored; the keys of ``objects`` are relative to the run. ``sums``:
    None where the run stored no losses of single examples. ``written``: the texts of its models, if it stored some."""

    run: str
    metrics: MetricsFile
    raw: Mapping[str, Any]
    spec: Mapping[str, Any]
    code_version: str | None
    image: str | None
    dataset: str
    complete_at: str
    objects: tuple[StoredObject, ...]
    sums: Sums | None
    written: tuple[WrittenExample, ...]

    @property
    def seed(self) -> Any:
        return self.spec.get("training", {}).get("seed")

    @property
    def published(self) -> ReferenceSpec | None:
        """The published figures that its spec names; None also for what another version would have to read."""
        try:
            return ReferenceSpec.model_validate(self.spec["reference"]) if self.spec.get("reference") else None
        except ValidationError:
            return None


@dataclass(frozen=True)
class Entry:
    """Runs of one level that differ in nothing but their seed.

    ``newest``: the newest of them, or None for a level without a run, whose ``state`` and ``reason`` are the entry's.
    ``results``: those with figures, newest first. ``passed``: the runs that have none and should: newer ones, and seeds
    that are complete nowhere.
    """

    level: str
    newest: str | None
    state: str
    reason: str
    results: tuple[Result, ...] = ()
    passed: tuple[RunState, ...] = ()

    @property
    def result(self) -> Result | None:
        """The newest with figures."""
        return self.results[0] if self.results else None

    @property
    def older(self) -> bool:
        """Whether its figures are older than its newest run."""
        return bool(self.results) and self.newest not in [result.run for result in self.results]

    @property
    def sums(self) -> Sums | None:
        """Of its runs; None if any has none, or they are not of the same examples."""
        found = [result.sums for result in self.results if result.sums]
        alike = len({one.examples for one in found}) == 1
        return together(found) if alike and len(found) == len(self.results) else None


@dataclass(frozen=True)
class Report:
    """Everything a renderer needs; the entries are in the order of the levels."""

    store: str
    entries: tuple[Entry, ...]
    ratings: Ratings | None = None  # None: they cannot be read, and ``ratings_problem`` says why
    ratings_problem: str = ""

    def label(self, entry: Entry) -> str:
        """The level, or the run's name where a level stands here more than once."""
        alone = sum(e.level == entry.level for e in self.entries) == 1
        return entry.level if alone or not entry.newest else entry.newest

    @property
    def with_figures(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.results)


class Unreadable(Exception):
    """An object of a complete run that is missing, damaged or not as expected: the run has no figures."""


def collect(store: Store, *, runs: Sequence[str] = (), levels: Sequence[str] = ()) -> Report:
    """The runs named and each level's newest complete run; without either, every level that has a run.

    With a run come those that repeat it with other seeds; of runs that differ in nothing the newest counts. A level whose
    newest run has no figures keeps that run's state and reason beside the older figures; a level without a run is
    ``MISSING``.
    """
    known = _known_runs(store, runs, levels)
    searches = [_Search(group[0].level, group) for group in _groups([k for k in known if k.run in runs])]
    for level in levels or ([] if runs else {k.level for k in known}):
        searches.append(_of_level(store, level, [k for k in known if k.level == level]))
    for search in searches:
        search.find(store)
    states = {state.run: state for state in run_states(store, [run for search in searches for run in search.passed])}
    entries = {entry.newest or entry.level: entry for entry in (search.entry(states) for search in searches)}
    ordered = tuple(sorted(entries.values(), key=_order))
    return Report(store.url, ordered, *_ratings(store, ordered))


def _ratings(store: Store, entries: Sequence[Entry]) -> tuple[Ratings | None, str]:
    """What people said of the runs with figures."""
    runs = [result.run for entry in entries for result in entry.results]
    try:
        return (collect_ratings(store, runs) if runs else None), ""
    except StoreError as exc:
        return None, str(exc)


def _order(entry: Entry) -> tuple[int, str, int, str]:
    levels = [level.value for level in Level]
    place = levels.index(entry.level) if entry.level in levels else len(levels)
    run = entry.newest or ""
    return place, entry.level, layout.run_version(run), run


@dataclass(frozen=True)
class _Known:
    """A run of the store. ``settings``: its spec apart from the seed and what does not change a run."""

    run: str
    level: str
    submitted_at: str
    settings: str
    seed: Any = None


def _known_runs(store: Store, runs: Sequence[str], levels: Sequence[str]) -> list[_Known]:
    """The store's runs that can matter, newest first."""
    names = [name for name in store.folders(f"{layout.RUNS}/") if layout.is_run_name(name)]
    if runs or levels:
        names = [n for n in names if n in runs or layout.run_level(n) in (*levels, None)]
    with ThreadPoolExecutor(_READERS) as pool:
        known = list(pool.map(lambda name: _describe(store, name), names))
    return sorted(known, key=lambda k: (k.submitted_at, layout.run_version(k.run), k.run), reverse=True)


def _describe(store: Store, run: str) -> _Known:
    level = layout.run_level(run)
    try:
        record = _checked(SpecFile, _stored(store, run, layout.SPEC), layout.SPEC)
    except Unreadable:
        return _Known(run, level or "unknown", "", settings=run)
    spec = {key: value for key, value in record.spec.items() if key not in ("reference", "generation")}
    training = spec.get("training")
    seed = None
    if isinstance(training, dict):
        seed = training.get("seed")
        spec["training"] = {key: value for key, value in training.items() if key != "seed"}
    settings = json.dumps([record.dataset, spec], sort_keys=True)
    return _Known(run, level or str(record.spec.get("level", "unknown")), record.submitted_at, settings, seed)


def _groups(known: Sequence[_Known]) -> list[list[_Known]]:
    """Runs that differ in nothing but the seed, together; of one seed each is in a group of its own."""
    groups: list[list[_Known]] = []
    for one in known:
        same = (g for g in groups if (g[0].level, g[0].settings) == (one.level, one.settings))
        place = next((g for g in same if one.seed not in [k.seed for k in g]), None)
        if place is None:
            groups.append([one])
        else:
            place.append(one)
    return groups


def _of_level(store: Store, level: str, known: Sequence[_Known]) -> _Search:
    """The level's newest run that has figures, what is newer, and what repeats it with other seeds."""
    newer: dict[str, str | None] = {}
    for place, one in enumerate(known):
        try:
            if read := _complete(store, one.run):
                same = [k for k in known[place:] if k.settings == one.settings]
                repeated = {k.seed: k for k in reversed(same)}.values()  # of each seed the newest
                order = sorted(repeated, key=known.index)
                return _Search(level, order, passed=newer, results=[read], newest=known[0].run)
        except Unreadable as exc:
            newer[one.run] = str(exc)
        else:
            newer[one.run] = None
    return _Search(level, [], passed=newer, newest=known[0].run if known else None)


@dataclass
class _Search:
    """Runs that repeat each other, newest first, and what was found of them. ``passed``: those without figures, and what
    was unreadable."""

    level: str
    group: Sequence[_Known]
    passed: dict[str, str | None] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    newest: str | None = None

    def find(self, store: Store) -> None:
        self.newest = self.newest or (self.group[0].run if self.group else None)
        seen = {*self.passed, *(result.run for result in self.results)}
        for run in (one.run for one in self.group if one.run not in seen):
            try:
                if read := _complete(store, run):
                    self.results.append(read)
                else:
                    self.passed[run] = None
            except Unreadable as exc:
                self.passed[run] = str(exc)

    def entry(self, states: Mapping[str, RunState]) -> Entry:
        passed = [replace(states[r], reason=problem or states[r].reason) for r, problem in self.passed.items()]
        state, reason = State.SUCCEEDED.value if self.results else MISSING, ""
        if newest := next((one for one in passed if one.run == self.newest), None):
            state, reason = newest.state.value, newest.reason
        return Entry(self.level, self.newest, state, reason, tuple(self.results), tuple(passed))


def _complete(store: Store, run: str) -> Result | None:
    """A run's figures; None if it is not complete. Raises ``Unreadable``."""
    return read_result(store, run) if store.exists(layout.run_key(run, layout.MANIFEST)) else None


def read_result(store: Store, run: str) -> Result:
    """A complete run's figures. Raises ``Unreadable``."""
    raw = _stored(store, run, layout.METRICS)
    metrics = _checked(MetricsFile, raw, layout.METRICS)
    spec = _checked(SpecFile, _stored(store, run, layout.SPEC), layout.SPEC)
    manifest = _checked(ManifestFile, _stored(store, run, layout.MANIFEST), layout.MANIFEST)
    names = {stored.key for stored in manifest.objects}
    attempt = layout.attempt_name(metrics.attempts or 1)
    image = _checked(Attempt, _stored(store, run, attempt), attempt).image if attempt in names else None
    sums = _sums(store, run, metrics) if layout.EVALUATION in names else None
    about = (spec.spec, spec.code_version, image, spec.dataset, manifest.complete_at, tuple(manifest.objects))
    return Result(run, metrics, raw, *about, sums, _written(store, run) if layout.GENERATION in names else ())


def _written(store: Store, run: str) -> tuple[WrittenExample, ...]:
    """Raises ``Unreadable``."""
    return tuple(_checked(GenerationFile, _stored(store, run, layout.GENERATION), layout.GENERATION).examples)


def _sums(store: Store, run: str, metrics: MetricsFile) -> Sums | None:
    """The losses of its examples, as columns. Raises ``Unreadable``."""
    rows = _checked(EvaluationFile, _stored(store, run, layout.EVALUATION), layout.EVALUATION).examples
    columns = [(row.baseline.full, row.tuned.full, float(row.tokens.full)) for row in rows]
    if not columns:
        return None
    baseline, tuned, tokens = np.array(columns).T
    return Sums(baseline, tuned, tokens, metrics.data.eval_sha256)


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
