"""Remove old runs, and checkpoints that are no longer needed, by rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache

from cefr_batch.errors import AccessDenied, StoreError, Unavailable, UsageError
from cefr_batch.records import layout
from cefr_batch.records.timestamps import parse_time
from cefr_batch.runner.selection import all_runs, claim_times, claimed_at
from cefr_batch.runner.status import RunState, run_states
from cefr_batch.schedulers import get_scheduler
from cefr_batch.schedulers.base import State
from cefr_batch.store.base import ObjectInfo, Store
from cefr_batch.store.manifest import read_manifest

_REMOVABLE = (State.SUCCEEDED, State.FAILED, State.CANCELLED)  # nothing else is touched
_DELETERS = 16


@dataclass(frozen=True)
class PruneRules:
    """What may be removed: checkpoints of complete runs; failed and cancelled runs without an update for
    ``failed_days``; complete runs with a level in their names, except the ``keep`` of each level that got theirs last; runs
    that got their names ``unstarted_days`` ago, and no job.

    ``runs``: these alone: all of each or, with ``checkpoints``, only that. ``force``: even one of which it is not known
    whether its job still runs.
    """

    checkpoints: bool = False
    failed_days: float | None = None
    keep: int | None = None
    runs: tuple[str, ...] = ()
    force: bool = False
    unstarted_days: float | None = None

    def check(self) -> None:
        """Raise ``UsageError`` if there is no rule, or if rules are given that are not for runs that are named."""
        by_age = self.failed_days is not None or bool(self.keep) or self.unstarted_days is not None
        if not (self.runs or self.checkpoints or by_age):
            ways = "the names of runs, --checkpoints, --failed DAYS, --unstarted DAYS or --keep N"
            raise UsageError(f"say what to remove: {ways}")
        if self.runs and by_age:
            rules = "--failed, --unstarted and --keep"
            raise UsageError(f"{rules} choose among all runs; leave them out, or the names of runs")
        if self.force and not self.runs:
            raise UsageError("--force is for runs that are named")


@dataclass(frozen=True)
class Removal:
    """What is to be removed of a run: all of it (``whole``), or its checkpoints. ``state``: the run's when found; ``named``:
    whether somebody named this run."""

    run: str
    state: State
    why: str
    objects: tuple[ObjectInfo, ...]
    whole: bool
    named: bool = False

    @property
    def size(self) -> int:
        """Bytes of all objects together."""
        return sum(stored.size for stored in self.objects)


def find_removals(store: Store, rules: PruneRules) -> list[Removal]:
    """What the rules allow to remove; removes nothing. Raises ``UsageError`` without a rule, and for a run that is named but
    may not be removed.

    The first rule that fits a run counts: a run that is removed is removed with its checkpoints.
    """
    rules.check()
    if rules.runs:
        return _named(store, rules)
    states = run_states(store, all_runs(store))
    surplus = _surplus(store, states, rules.keep) if rules.keep else set()
    found = (_removal(store, state, rules, surplus) for state in states)
    return [removal for removal in found if removal]


def remove(store: Store, removals: Sequence[Removal]) -> Iterator[tuple[Removal, str]]:
    """Remove it, run by run; gives each removal with why it was left alone, empty if it was removed. Idempotent.

    A run is left alone if its state has changed by the time when it is its turn, as where somebody resumed it, and if its
    manifest cannot be read, which would have to list the checkpoints no longer. Blocks on the store and, for runs that are
    not complete, on their schedulers.
    """
    find_scheduler = cache(get_scheduler)
    for removal in removals:
        (found,) = run_states(store, [removal.run], find_scheduler)
        removable = removal.named or found.state in _REMOVABLE or found.never_started
        if found.state is not removal.state or not removable:
            yield removal, f"it is {found.state} now"
        else:
            yield removal, (_remove_run if removal.whole else _remove_checkpoints)(store, removal)


def _named(store: Store, rules: PruneRules) -> list[Removal]:
    states = run_states(store, rules.runs)
    if busy := [reason for state in states if (reason := _why_not(state, rules))]:
        raise UsageError("\n".join(["nothing was removed:", *(f"  {reason}" for reason in busy)]))
    whole = not rules.checkpoints
    found = [_found(store, state, "named" if whole else "its checkpoints", whole=whole, named=True) for state in states]
    return [removal for removal in found if removal.objects]


def _why_not(state: RunState, rules: PruneRules) -> str:
    """Why a run that is named may not be removed; empty if it may."""
    if rules.checkpoints and state.state is not State.SUCCEEDED:
        return f"{state.run} is {state.state}, and --checkpoints is for complete runs: others resume from their checkpoints"
    if state.settled or (rules.force and state.state is State.UNKNOWN):
        return ""
    if state.stopping:
        remedy = "wait until `cefr-batch status` shows it as CANCELLED"
    else:
        unknown = state.state is State.UNKNOWN
        remedy = "--force removes it anyway" if unknown else f"cefr-batch cancel {state.run} stops it"
    return f"{state.run} is {state.state}{f' ({state.reason})' if state.reason else ''}; {remedy}"


def _removal(store: Store, state: RunState, rules: PruneRules, surplus: set[str]) -> Removal | None:
    if state.run in surplus:
        return _found(store, state, f"not among the newest {rules.keep} of its level", whole=True)
    if rules.failed_days is not None and _has_failed(state, rules.failed_days):
        return _found(store, state, f"{state.state}, older than {rules.failed_days:g} days", whole=True)
    if rules.unstarted_days is not None and _is_unstarted(store, state, rules.unstarted_days):
        return _found(store, state, f"never started, and older than {rules.unstarted_days:g} days", whole=True)
    if rules.checkpoints and state.state is State.SUCCEEDED:
        removal = _found(store, state, "its checkpoints", whole=False)
        return removal if removal.objects else None
    return None


def _surplus(store: Store, states: Iterable[RunState], keep: int) -> set[str]:
    """The complete runs that are not among the newest of their level, in the order in which ``--level`` chooses. A run
    without a level in its name is no level's newest, and one whose age cannot be read may be; neither is surplus."""
    complete = {state.run: state.level for state in states if state.state is State.SUCCEEDED and state.level}
    by_level: dict[str, list[str]] = {}
    for run, claimed in claim_times(store, list(complete)).items():
        if claimed:
            by_level.setdefault(complete[run], []).append(run)
    return {run for runs in by_level.values() for run in runs[keep:]}


def _has_failed(state: RunState, days: float) -> bool:
    last = state.updated_at or state.submitted_at
    return state.state in (State.FAILED, State.CANCELLED) and _is_older(last, days)


def _is_unstarted(store: Store, state: RunState, days: float) -> bool:
    return state.never_started and _is_older(claimed_at(store, state.run), days)


def _is_older(time: str | None, days: float) -> bool:
    """False if the time is not known."""
    if not time:
        return False
    return datetime.now(timezone.utc) - parse_time(time) >= timedelta(days=days)


def _found(store: Store, state: RunState, why: str, *, whole: bool, named: bool = False) -> Removal:
    prefix = layout.run_key(state.run, *([] if whole else [layout.CHECKPOINTS])) + "/"
    return Removal(state.run, state.state, why, tuple(store.objects(prefix)), whole, named)


def _remove_run(store: Store, removal: Removal) -> str:
    """The manifest first: what is half removed is not complete. The spec last: until then the name is not free."""
    manifest, spec = (layout.run_key(removal.run, name) for name in (layout.MANIFEST, layout.SPEC))
    store.delete(manifest)
    store.discard_unfinished(layout.run_key(removal.run) + "/")
    _delete(store, [stored.key for stored in removal.objects if stored.key not in (manifest, spec)])
    store.delete(spec)
    return ""


def _remove_checkpoints(store: Store, removal: Removal) -> str:
    """First from the manifest, so that the run is at every moment what its manifest says. Returns why it was left alone."""
    try:
        manifest = read_manifest(store, removal.run).without(layout.CHECKPOINTS)
    except (Unavailable, AccessDenied):
        raise
    except StoreError as exc:
        return str(exc)
    store.put_record(layout.run_key(removal.run, layout.MANIFEST), manifest)
    _delete(store, [stored.key for stored in removal.objects])
    return ""


def _delete(store: Store, keys: Sequence[str]) -> None:
    with ThreadPoolExecutor(_DELETERS) as pool:
        list(pool.map(store.delete, keys))
