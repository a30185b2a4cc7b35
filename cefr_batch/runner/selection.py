"""Which runs of a store are meant: by name, or the newest of a level."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from cefr_batch.errors import NotFound, StoreError, UsageError
from cefr_batch.records import layout
from cefr_batch.records.spec import SpecRecord
from cefr_batch.store.base import READERS, Store

EVERY_LEVEL = "all"
_Newest = Callable[[Store, str, Sequence[str]], str]
_LISTED = 20  # run names in an error message
_RENDERED = re.compile(r"-[0-9a-f]{6}-[abc][12]-[a-z]+-v1$")  # a name as runner.unclaimed makes it
_NOT_BEGUN = (
    "If this name is from `render`, its job has not started: `kubectl get pods` shows whether its pod is waiting."
)


def parse_levels(values: Iterable[str]) -> list[str]:
    """Levels, ``A1`` to ``C1``, each once, from names in any case, several in one separated by commas; ``all`` is every
    level. Raises ``UsageError``."""
    from cefr_batch.config.schema import Level  # late: it loads pydantic, which --help does without

    valid = [level.value for level in Level]
    levels: list[str] = []
    for name in (name.strip() for value in values for name in value.split(",")):
        if name.upper() not in (*valid, "ALL"):
            raise UsageError(f"{name!r} is not a level; valid: {', '.join(valid)}")
        levels += valid if name.upper() == "ALL" else [name.upper()]
    return list(dict.fromkeys(levels))


def all_runs(store: Store) -> list[str]:
    """The names of the store's runs, sorted."""
    return [name for name in store.folders(f"{layout.RUNS}/") if layout.is_run_name(name)]


def find_runs(
    store: Store,
    runs: Iterable[str] = (),
    levels: Iterable[str] = (),
    *,
    complete: bool = False,
    studies: bool = False,
) -> list[str]:
    """The runs named, then each level's newest run, each once; of ``all`` levels those that have one.

    ``complete``: of each level the newest run that is complete (runs named need not be). ``studies``: a study's name stands
    for the runs of its trials. Raises ``NotFound`` for what
    does not exist and ``UsageError``, which lists the runs, where nothing is named.
    """
    known = all_runs(store)
    found = [one for run in runs for one in _named(store, run, known, studies)]
    newest = _newest_complete if complete else _newest
    named, every = _named_levels(levels)
    found += [newest(store, level, known) for level in named]
    if every:
        found += _where_there_is_one(store, parse_levels([EVERY_LEVEL]), known, newest).values()
        if not found:
            raise NotFound(no_runs(store) if not known else f"no run of {store.url} is complete")
    if not found:
        raise UsageError(f"name a run, or a level with --level. {_listing(store, known)}")
    return list(dict.fromkeys(found))


def _named_levels(values: Iterable[str]) -> tuple[list[str], bool]:
    """The levels that are named one by one, and whether ``all`` is. Raises ``UsageError``."""
    names = [name.strip().lower() for value in values for name in value.split(",")]
    return parse_levels(name for name in names if name != EVERY_LEVEL), EVERY_LEVEL in names


def levels_to_report(store: Store, values: Iterable[str]) -> list[str]:
    """As ``parse_levels``, but of ``all`` levels those that have a run. Raises ``UsageError``, and ``NotFound`` for ``all``
    of a store without runs."""
    levels, every = _named_levels(values)
    if not every:
        return levels
    there = {layout.run_level(run) for run in all_runs(store)}
    found = [level for level in parse_levels([EVERY_LEVEL]) if level in there or level in levels]
    if not found:
        raise NotFound(no_runs(store))
    return found


def check_run_name(run: str, hint: str = "") -> None:
    """Raise ``UsageError``, ending with the hint, unless this can be the name of a run."""
    if not layout.is_run_name(run):
        raise UsageError(f"{run!r} is not a run's name (lower-case letters, digits and dashes). {hint}".rstrip())


def no_runs(store: Store) -> str:
    """What to say of an empty store."""
    return f"There are no runs in {store.url}; `cefr-batch submit` starts one."


def _named(store: Store, run: str, known: Sequence[str], studies: bool) -> list[str]:
    if run in known:
        return [run]
    check_run_name(run, _listing(store, known))
    if trials := [one for one in known if layout.study_of(one) == run]:
        if studies:
            return trials
        raise NotFound(f"{run} is a search, not a run; name one of its trials: {', '.join(trials)}")
    close = difflib.get_close_matches(run, known, n=3)
    hint = (
        _NOT_BEGUN
        if _RENDERED.search(run)
        else f"Did you mean {' or '.join(close)}?"
        if close
        else _listing(store, known)
    )
    raise NotFound(f"no run {run!r} in {store.url}. {hint}")


def _newest(store: Store, level: str, known: Sequence[str]) -> str:
    """The newest that was started; if none was, the newest that has a name."""
    newest_first = _newest_first(store, level, known)
    return next((run for run in newest_first if _was_started(store, run)), newest_first[0])


def _was_started(store: Store, run: str) -> bool:
    """By ``submit``, or by somebody else: then its job says so."""
    return any(store.exists(layout.run_key(run, name)) for name in (layout.SUBMISSION, layout.STATUS, layout.MANIFEST))


def _newest_complete(store: Store, level: str, known: Sequence[str]) -> str:
    for run in _newest_first(store, level, known):
        if store.exists(layout.run_key(run, layout.MANIFEST)):
            return run
    newest = _newest(store, level, known)
    raise NotFound(
        f"no complete run of level {level} in {store.url}. `cefr-batch status {newest}` says how far its newest is"
    )


def newest_complete(store: Store, levels: Iterable[str]) -> dict[str, str]:
    """The newest complete run of each of these levels that has one."""
    return _where_there_is_one(store, levels, all_runs(store), _newest_complete)


def _where_there_is_one(store: Store, levels: Iterable[str], known: Sequence[str], newest: _Newest) -> dict[str, str]:
    found = dict[str, str]()
    for level in levels:
        with suppress(NotFound):
            found[level] = newest(store, level, known)
    return found


def _newest_first(store: Store, level: str, known: Sequence[str]) -> list[str]:
    of_level = [run for run in known if layout.run_level(run) == level]
    if not of_level:
        raise NotFound(f"no run of level {level} in {store.url}. {_listing(store, known)}")
    return list(claim_times(store, of_level))


def claim_times(store: Store, runs: Sequence[str]) -> dict[str, str]:
    """When these runs got their names, the newest run first; empty, and last, where that cannot be read."""
    with ThreadPoolExecutor(READERS) as pool:
        claimed = dict(zip(runs, pool.map(partial(claimed_at, store), runs), strict=True))
    newest_first = sorted(runs, key=lambda run: (claimed[run], layout.run_version(run)), reverse=True)
    return {run: claimed[run] for run in newest_first}


def claimed_at(store: Store, run: str) -> str:
    """When the run got its name; empty if that cannot be read, so that one broken run does not hide the others."""
    try:
        return store.get_record(layout.run_key(run, layout.SPEC), SpecRecord).submitted_at
    except StoreError:
        return ""


def _listing(store: Store, known: Sequence[str]) -> str:
    if not known:
        return no_runs(store)
    shown = ", ".join(known[:_LISTED]) + (", …" if len(known) > _LISTED else "")
    return f"The runs in {store.url}: {shown}"
