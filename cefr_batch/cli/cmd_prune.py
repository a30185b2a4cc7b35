"""``cefr-batch prune``: make room, by rule."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import click

from cefr_batch import layout
from cefr_batch.cli.options import all_runs, store_option
from cefr_batch.cli.show import columns
from cefr_batch.errors import UsageError
from cefr_batch.launch.base import State
from cefr_batch.launch.state import RunState, run_states
from cefr_batch.launch.submission import parse_time
from cefr_batch.report.text import size
from cefr_batch.store import ObjectInfo, Store
from cefr_batch.store.manifest import read_manifest

_PRUNED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)  # nothing else is touched
_DELETERS = 16


@dataclass(frozen=True)
class Removal:
    """What is to be removed of a run: all of it, or its checkpoints."""

    run: str
    state: State
    why: str
    objects: tuple[ObjectInfo, ...]
    whole: bool

    @property
    def size(self) -> int:
        return sum(stored.size for stored in self.objects)


@click.command()
@click.option("--checkpoints", is_flag=True, help="The checkpoints of complete runs.")
@click.option(
    "--failed",
    "failed_days",
    metavar="DAYS",
    type=click.FloatRange(min=0),
    help="Failed and cancelled runs whose last sign of life is older than this.",
)
@click.option(
    "--keep", metavar="N", type=click.IntRange(min=1), help="Complete runs, except for the newest N of each level."
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and stop.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
def command(
    checkpoints: bool, failed_days: float | None, keep: int | None, dry_run: bool, yes: bool, store: Store
) -> None:
    """Remove checkpoints and old runs, by the rules given. Shows what, and asks first.

    Only runs that are complete, failed or cancelled are touched. Removed runs' names may be given again.
    """
    if not (checkpoints or failed_days is not None or keep):
        raise UsageError("nothing to remove without a rule: --checkpoints, --failed DAYS or --keep N")
    if not (dry_run or yes or sys.stdin.isatty()):
        raise UsageError("prune asks before it removes, which needs a terminal; --yes removes without asking")
    states = run_states(store, all_runs(store))
    removals = list(_removals(store, states, checkpoints, failed_days, keep))
    if not removals:
        return click.echo("Nothing to remove.")
    _show(removals)
    if dry_run:
        return click.echo("Nothing was removed (--dry-run).")
    if not yes and not click.confirm("Remove all this?"):
        return click.echo("Nothing was removed.")
    return _remove(store, removals)


def _removals(
    store: Store, states: Sequence[RunState], checkpoints: bool, failed_days: float | None, keep: int | None
) -> Iterator[Removal]:
    """The first rule that fits a run counts: a run that goes, goes with its checkpoints."""
    surplus = _surplus(states, keep) if keep else set()
    for state in states:
        if state.run in surplus:
            yield _removal(store, state, f"not among the newest {keep} of its level", whole=True)
        elif failed_days is not None and _has_failed(state, failed_days):
            yield _removal(store, state, f"{state.state}, older than {failed_days:g} days", whole=True)
        elif checkpoints and state.state is State.SUCCEEDED:
            removal = _removal(store, state, "its checkpoints", whole=False)
            if removal.objects:
                yield removal


def _surplus(states: Iterable[RunState], keep: int) -> set[str]:
    complete = [state for state in states if state.state is State.SUCCEEDED]
    complete.sort(key=lambda state: (state.submitted_at or "", layout.run_version(state.run)), reverse=True)
    by_level: dict[str | None, list[str]] = {}
    for state in complete:
        by_level.setdefault(state.level, []).append(state.run)
    return {run for runs in by_level.values() for run in runs[keep:]}


def _has_failed(state: RunState, days: float) -> bool:
    last = state.updated_at or state.submitted_at
    if state.state not in (State.FAILED, State.CANCELLED) or last is None:
        return False
    return datetime.now(timezone.utc) - parse_time(last) >= timedelta(days=days)


def _removal(store: Store, state: RunState, why: str, *, whole: bool) -> Removal:
    prefix = layout.run_key(state.run, *([] if whole else [layout.CHECKPOINTS])) + "/"
    return Removal(state.run, state.state, why, tuple(store.objects(prefix)), whole)


def _show(removals: Sequence[Removal]) -> None:
    rows = [(one.run, f"{len(one.objects)} objects", size(one.size), one.why) for one in removals]
    click.echo("\n".join(columns([("RUN", "REMOVED", "SIZE", "WHY"), *rows])))
    click.echo(f"In all: {size(sum(one.size for one in removals))}")


def _remove(store: Store, removals: Sequence[Removal]) -> None:
    """Remove what still is in the state in which it was shown: somebody may have resumed a run meanwhile."""
    now = {state.run: state.state for state in run_states(store, [one.run for one in removals])}
    for removal in removals:
        if now[removal.run] is not removal.state or removal.state not in _PRUNED:
            click.echo(f"{removal.run}: left alone, it is {now[removal.run]} now")
            continue
        (_remove_run if removal.whole else _remove_checkpoints)(store, removal)
        click.echo(f"{removal.run}: removed {size(removal.size)}")


def _remove_run(store: Store, removal: Removal) -> None:
    """The manifest first: what is half removed is not complete. The spec last: until then the name is not free."""
    manifest, spec = (layout.run_key(removal.run, name) for name in (layout.MANIFEST, layout.SPEC))
    store.delete(manifest)
    _delete(store, [stored.key for stored in removal.objects if stored.key not in (manifest, spec)])
    store.delete(spec)


def _remove_checkpoints(store: Store, removal: Removal) -> None:
    """First off the manifest, so that the run is at every moment what its manifest says."""
    manifest = read_manifest(store, removal.run).as_json(without=layout.CHECKPOINTS)
    store.put_json(layout.run_key(removal.run, layout.MANIFEST), manifest)
    _delete(store, [stored.key for stored in removal.objects])


def _delete(store: Store, keys: Sequence[str]) -> None:
    with ThreadPoolExecutor(_DELETERS) as pool:
        list(pool.map(store.delete, keys))
