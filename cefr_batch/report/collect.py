"""The store → ``Report``: which runs count for which level, and what is in them. Reads nothing but the store."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from pydantic import JsonValue, ValidationError

from cefr_batch.config.load import comparable
from cefr_batch.config.schema import Level, ReferenceSpec
from cefr_batch.data.examples import from_list_format, sha256_of
from cefr_batch.errors import NotFound, StoreError, Unavailable
from cefr_batch.evaluation.level_figures import written_levels
from cefr_batch.evaluation.statistics import LossPart, Sums, together
from cefr_batch.human_eval.scores import Ratings, collect_ratings
from cefr_batch.records import layout
from cefr_batch.records.attempt import Attempt
from cefr_batch.records.document import Settings, StoredRecord
from cefr_batch.records.evaluations import SetEvaluation
from cefr_batch.records.exports import ExportRecord
from cefr_batch.records.level_figures import WrittenLevels
from cefr_batch.records.losses import EvaluatedExample, EvaluationRecord
from cefr_batch.records.manifest import Manifest
from cefr_batch.records.metrics import Metrics
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.stages import DatasetFigures, StoredObject
from cefr_batch.records.texts import GenerationRecord, WrittenExample
from cefr_batch.report.studies import ReportedStudy, studies_of
from cefr_batch.runner.evaluations import stored_evaluations
from cefr_batch.runner.exports import stored_exports
from cefr_batch.runner.status import RunState, run_states
from cefr_batch.schedulers.base import State
from cefr_batch.store.base import READERS, Store
from cefr_batch.store.manifest import of_manifest
from cefr_batch.store.transfer import TransferItem
from cefr_batch.store.views import RecordingStore

log = logging.getLogger(__name__)

MISSING = "MISSING"  # the state of a level that has no run

R = TypeVar("R", bound=StoredRecord)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A complete run. The keys of ``objects`` are relative to the run. ``evaluated``: its losses by example, if it stored
    them. ``written``: the texts of its models, if it stored some; ``levels``: what their sentences measure.
    ``evaluations``: on other sets of examples; ``exports``: for other programs."""

    run: str
    metrics: Metrics
    spec: Settings
    code_version: str | None
    image: str | None
    dataset: str
    complete_at: str
    objects: tuple[StoredObject, ...]
    evaluated: tuple[EvaluatedExample, ...]
    written: tuple[WrittenExample, ...]
    levels: WrittenLevels | None
    evaluations: tuple[SetEvaluation, ...] = ()
    exports: tuple[ExportRecord, ...] = ()

    @cached_property
    def sums(self) -> Sums | None:
        """What its losses over all tokens are made of; None where the run stored no losses of single examples."""
        return self._sums("full")

    @cached_property
    def response_sums(self) -> Sums | None:
        """As ``sums``, over the tokens of the responses."""
        return self._sums("response")

    def _sums(self, part: LossPart) -> Sums | None:
        if not self.evaluated:
            return None
        return Sums.of(self.evaluated, part, self.metrics.data.eval_sha256)

    @property
    def seed(self) -> JsonValue:
        """The random seed in its spec."""
        return _seed(self.spec)

    @property
    def published(self) -> ReferenceSpec | None:
        """The published figures that its spec names, if its data is what they were published for; None also for what another
        version would have to read."""
        try:
            reference = ReferenceSpec.model_validate(self.spec["reference"]) if self.spec.get("reference") else None
        except ValidationError:
            return None
        return reference if reference and _is_of(reference, self.metrics.data) else None


def _is_of(reference: ReferenceSpec, data: DatasetFigures) -> bool:
    """Whether data has as many examples and words as was published of it; what was rounded ("~") to a twentieth."""
    figures = {str(key): given for key, given in reference.figures.items()}
    pairs = ((data.train_examples, figures.get("train_examples")), (data.unique_words, figures.get("unique_words")))
    return all(_agrees(own, given) for own, given in pairs if given)


def _agrees(own: int, published: str) -> bool:
    value = float(published.removeprefix("~"))
    return abs(own - value) <= value / 20 if published.startswith("~") else own == value


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
        """Over all tokens of its runs; None if any has none, or they are not of the same examples."""
        return together([result.sums for result in self.results])

    @property
    def response_sums(self) -> Sums | None:
        """As ``sums``, over the tokens of the responses."""
        return together([result.response_sums for result in self.results])


@dataclass(frozen=True, eq=False)  # a report is itself, so that what follows from it can be kept
class Report:
    """Everything a renderer needs; the entries are in the order of the levels."""

    store: str
    entries: tuple[Entry, ...]
    ratings: Ratings | None = None
    ratings_problems: tuple[str, ...] = ()  # why all of them, or those of a form, cannot be read
    studies: tuple[ReportedStudy, ...] = ()  # of the levels, newest first
    studies_problems: tuple[str, ...] = ()  # why others cannot be read
    made_from: tuple[TransferItem, ...] = ()  # the objects that its figures follow from, as they were read

    def label(self, entry: Entry) -> str:
        """The level, or the run's name where a level stands here more than once."""
        alone = sum(e.level == entry.level for e in self.entries) == 1
        return entry.level if alone or not entry.newest else entry.newest

    @property
    def with_figures(self) -> tuple[Entry, ...]:
        """The entries that have results."""
        return tuple(entry for entry in self.entries if entry.results)


class Unreadable(Exception):
    """An object of a complete run that is missing, damaged or not as expected: the run has no figures."""


def collect(store: Store, *, runs: Sequence[str] = (), levels: Sequence[str] = ()) -> Report:
    """The runs named and each level's newest complete run; without either, every level that has a run.

    With a run come those that repeat it with other seeds; of runs that differ in nothing the newest counts. A level whose
    newest run has no figures keeps that run's state and reason beside the older figures; a level without a run is
    ``MISSING``.
    """
    store = RecordingStore(store)
    known = _known_runs(store, runs, levels)
    searches = [_Search(group[0].level, group) for group in _groups([k for k in known if k.run in runs])]
    for level in levels or ([] if runs else {k.level for k in known}):
        searches.append(_of_level(store, level, [k for k in known if k.level == level]))
    for search in searches:
        search.find(store)
    states = {state.run: state for state in run_states(store, [run for search in searches for run in search.passed])}
    entries = {entry.newest or entry.level: entry for entry in (search.entry(states) for search in searches)}
    ordered = tuple(sorted(entries.values(), key=_order))
    report = assembled(store, ordered)
    return replace(report, made_from=_made_from(store.read, report))


def assembled(store: Store, entries: tuple[Entry, ...]) -> Report:
    """The report of these entries, with what the store has of their runs and levels together."""
    studies = studies_of(store, {entry.level for entry in entries})
    return Report(store.url, entries, *_ratings(store, entries), *studies)


def _made_from(read: Sequence[TransferItem], report: Report) -> tuple[TransferItem, ...]:
    """Of the objects that were read, all but those of runs and studies without figures, and what still changes in a complete
    run."""
    runs = (layout.run_key(result.run, "") for entry in report.entries for result in entry.results)
    shown = (*runs, *(folder for study in report.studies for folder in study.folders))
    still_written = (layout.STATUS, layout.SUBMISSION)
    return tuple(
        item
        for item in read
        if not item.key.startswith((f"{layout.RUNS}/", f"{layout.STUDIES}/"))
        or (item.key.startswith(shown) and item.key.rpartition("/")[2] not in still_written)
    )


def _ratings(store: Store, entries: Sequence[Entry]) -> tuple[Ratings | None, tuple[str, ...]]:
    """What people said of the runs with figures, and what of it cannot be read."""
    runs = [result.run for entry in entries for result in entry.results]
    if not runs:
        return None, ()
    try:
        ratings = collect_ratings(store, runs)
    except StoreError as exc:
        return None, (str(exc),)
    return ratings, ratings.left_out


def _order(entry: Entry) -> tuple[int, str, int, str]:
    levels = [level.value for level in Level]
    place = levels.index(entry.level) if entry.level in levels else len(levels)
    run = entry.newest or ""
    return place, entry.level, layout.run_version(run), run


_AFTER_TRAINING = ("reference", "generation", "export", "notify")  # parts of a spec that do not change what is learned


@dataclass(frozen=True)
class _Known:
    """A run of the store. ``settings``: its spec apart from the seed and what does not change what is learned."""

    run: str
    level: str
    submitted_at: str
    settings: str
    seed: JsonValue = None


def _known_runs(store: Store, runs: Sequence[str], levels: Sequence[str]) -> list[_Known]:
    """The store's runs that can matter, newest first. A trial of a search matters where it is named."""
    found = [name for name in store.folders(f"{layout.RUNS}/") if layout.is_run_name(name)]
    names = [name for name in found if name in runs or not layout.study_of(name)]
    if runs or levels:
        names = [n for n in names if n in runs or layout.run_level(n) in (*levels, None)]
    with ThreadPoolExecutor(READERS) as pool:
        known = list(pool.map(lambda name: _describe(store, name), names))
    return sorted(known, key=lambda k: (k.submitted_at, layout.run_version(k.run), k.run), reverse=True)


def _describe(store: Store, run: str) -> _Known:
    level = layout.run_level(run)
    try:
        record = _read(store, run, layout.SPEC, SpecRecord)
    except Unreadable:
        return _Known(run, level or "unknown", "", settings=run)
    spec = {key: value for key, value in comparable(record.spec).items() if key not in _AFTER_TRAINING}
    training = spec.get("training")
    if isinstance(training, dict):
        spec["training"] = {key: value for key, value in training.items() if key != "seed"}
    settings = json.dumps([record.dataset, spec], sort_keys=True)
    return _Known(
        run, level or str(record.spec.get("level", "unknown")), record.submitted_at, settings, _seed(record.spec)
    )


def _seed(settings: Settings) -> JsonValue:
    training = settings.get("training")
    return training.get("seed") if isinstance(training, dict) else None


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
    """A complete run's figures, from objects that are as its manifest lists them. Raises ``Unreadable``."""
    manifest = _read(store, run, layout.MANIFEST, Manifest)
    store = of_manifest(store, manifest)
    metrics = _read(store, run, layout.METRICS, Metrics)
    spec = _read(store, run, layout.SPEC, SpecRecord)
    names = {stored.key for stored in manifest.objects}
    attempt = layout.attempt_name(metrics.attempts or 1)
    evaluated = _read(store, run, layout.EVALUATION, EvaluationRecord).examples if layout.EVALUATION in names else ()
    written = _written(store, run) if layout.GENERATION in names else ()
    return Result(
        run=run,
        metrics=metrics,
        spec=spec.spec,
        code_version=spec.code_version,
        image=_read(store, run, attempt, Attempt).image if attempt in names else None,
        dataset=spec.dataset,
        complete_at=manifest.complete_at,
        objects=tuple(manifest.objects),
        evaluated=tuple(evaluated),
        written=written,
        levels=_levels(store, metrics, spec.dataset, written),
        evaluations=tuple(_evaluations(store, run)),
        exports=tuple(_exports(store, run)),
    )


def _evaluations(store: Store, run: str) -> Iterator[SetEvaluation]:
    return _beside(store, run, map(layout.evaluation_name, stored_evaluations(store, run)), SetEvaluation)


def _exports(store: Store, run: str) -> Iterator[ExportRecord]:
    return _beside(store, run, map(layout.export_name, stored_exports(store, run)), ExportRecord)


def _beside(store: Store, run: str, names: Iterable[str], kind: type[R]) -> Iterator[R]:
    """The documents that lie beside a run's manifest and can be read: a damaged one leaves a gap in the report, and the run
    stays in it."""
    for name in names:
        try:
            yield _read(store, run, name, kind)
        except Unreadable as exc:
            log.warning("%s", str(exc).replace("the run is left out", "it is left out"))


def _written(store: Store, run: str) -> tuple[WrittenExample, ...]:
    """Raises ``Unreadable``."""
    return tuple(_read(store, run, layout.GENERATION, GenerationRecord).examples)


def _levels(store: Store, metrics: Metrics, dataset: str, written: Sequence[WrittenExample]) -> WrittenLevels | None:
    """Measured from the texts, so that all runs are measured by one estimator; without texts, what the run stored."""
    if not written or metrics.level not in list(Level):
        return metrics.levels
    try:
        data = store.get(layout.dataset_key(dataset, layout.EVAL_FILE))
        whole = metrics.data.eval_sha256 in ("", sha256_of(data))
        examples = from_list_format(data) if whole else ()
    except Unavailable:
        raise
    except (StoreError, ValueError):  # the figures of what was written do not need it
        examples = ()
    return written_levels(written, examples, Level(metrics.level), key=metrics.data.eval_sha256)


def _read(store: Store, run: str, name: str, kind: type[R]) -> R:
    try:
        return store.get_record(layout.run_key(run, name), kind)
    except NotFound:
        what, next_step = f"{name} of {run} is missing", "restore it from a copy, or run the level again"
        raise Unreadable(f"{what}, so the run is left out of the report; {next_step}") from None
    except StoreError as exc:
        raise Unreadable(f"{name} of {run} cannot be read, so the run is left out of the report: {exc}") from exc
