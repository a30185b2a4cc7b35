"""What commands share: the store, the choice of runs, ``--json``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from cefr_batch import layout
from cefr_batch.errors import NotFound, StoreError, UsageError
from cefr_batch.store import DEFAULT_STORE, Store, open_store, to_json

F = TypeVar("F", bound=Callable[..., Any])


def store_option(function: F) -> F:
    """``--store URL``; the command gets ``store``, opened."""
    return click.option(
        "--store",
        metavar="URL",
        envvar="CEFR_BATCH_STORE",
        default=DEFAULT_STORE,
        show_default=True,
        show_envvar=True,
        callback=lambda _ctx, _param, value: open_store(value),
        help="Where runs are kept: a folder or a URL.",
    )(function)


def json_option(function: F) -> F:
    """``--json``; the command gets ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")(function)


def runs_options(function: F) -> F:
    """``[RUN]... [--level L]...``; the command gets ``runs`` and ``levels``, for ``chosen_runs``."""
    function = click.option(
        "--level", "levels", multiple=True, type=LevelType(), help="This level's newest run. May be repeated."
    )(function)
    return click.argument("runs", nargs=-1, metavar="[RUN]...")(function)


class LevelType(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.4
    """A CEFR level, in any case; given to the command in upper case."""

    name = "level"

    def __init__(self, extra: Sequence[str] = ()) -> None:
        self.extra = tuple(extra)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from cefr_batch.levels import Level  # loads pydantic

        valid = [*(level.value for level in Level), *self.extra]
        for one in valid:
            if str(value).upper() == one.upper():
                return one
        return self.fail(f"{value!r} is not a level; valid: {', '.join(valid)}", param, ctx)


def echo_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(to_json(value).decode(), nl=False)


def all_runs(store: Store) -> list[str]:
    """The names of the store's runs, sorted."""
    return [name for name in store.folders(f"{layout.RUNS}/") if layout.is_run_name(name)]


def chosen_runs(store: Store, runs: Iterable[str], levels: Iterable[str]) -> list[str]:
    """The runs named and each level's newest, each once. Raises ``NotFound`` for one that does not exist and
    ``UsageError``, which lists the runs, where none is chosen."""
    known = all_runs(store)
    chosen = [_known(store, run, known) for run in runs]
    chosen += [_newest(store, level, known) for level in levels]
    if not chosen:
        raise UsageError(f"name a run, or a level with --level. {_listing(store, known)}")
    return list(dict.fromkeys(chosen))


def _known(store: Store, run: str, known: Sequence[str]) -> str:
    if run in known:
        return run
    if not layout.is_run_name(run):
        raise UsageError(
            f"{run!r} is not a run's name (lower-case letters, digits and dashes). {_listing(store, known)}"
        )
    close = difflib.get_close_matches(run, known, n=3)
    hint = f"Did you mean {' or '.join(close)}?" if close else _listing(store, known)
    raise NotFound(f"no run {run!r} in {store.url}. {hint}")


def _listing(store: Store, known: Sequence[str]) -> str:
    if not known:
        return f"There are no runs in {store.url}; cefr-batch submit starts one."
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    return f"The runs in {store.url}: {shown}"


def _newest(store: Store, level: str, known: Sequence[str]) -> str:
    of_level = [run for run in known if layout.run_level(run) == level]
    if not of_level:
        raise NotFound(f"no run of level {level} in {store.url}. {_listing(store, known)}")
    return max(of_level, key=lambda run: (_claimed_at(store, run), layout.run_version(run)))


def _claimed_at(store: Store, run: str) -> str:
    return str(_spec(store, run).get("submitted_at", ""))


def _spec(store: Store, run: str) -> dict[str, Any]:
    """A run's spec.json; empty if it cannot be read, so that one broken run does not hide the others."""
    try:
        spec = store.get_json(layout.run_key(run, layout.SPEC))
    except StoreError:
        return {}
    return spec if isinstance(spec, dict) else {}
