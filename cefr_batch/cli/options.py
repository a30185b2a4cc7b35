"""What commands share: the store, the choice of runs and levels, ``--json``."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from cefr_batch import layout
from cefr_batch.errors import NotFound, StoreError, UsageError
from cefr_batch.launch import get_launcher, launcher_names
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


def cluster_option(function: F) -> F:
    """``--cluster NAME``; the command gets ``launcher``."""
    return click.option(
        "--cluster",
        "launcher",
        metavar="NAME",
        default="local",
        show_default=True,
        callback=lambda _ctx, _param, value: get_launcher(value),
        help=f"Where: {launcher_names()} (NAME: a site file in slurm/ or k8s/).",
    )(function)


def json_option(function: F) -> F:
    """``--json``; the command gets ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")(function)


def wait_option(function: F) -> F:
    """``--wait``; see ``cefr_batch.cli.watch.wait_for``."""
    text = "Show progress until all are finished; exit 0 only if all succeeded. Ctrl-C leaves the jobs alone."
    return click.option("--wait", is_flag=True, help=text)(function)


def runs_options(function: F) -> F:
    """``[RUN]... [--level L]...``; the command gets ``runs`` and ``levels``, for ``chosen_runs``."""
    function = click.option(
        "--level",
        "levels",
        metavar="LEVEL",
        multiple=True,
        callback=lambda _ctx, _param, values: [_level(value) for value in values],
        help="This level's newest run. May be repeated.",
    )(function)
    return click.argument("runs", nargs=-1, metavar="[RUN]...")(function)


def spec_options(function: F) -> F:
    """``--level L... --profile P --set K=V...``; the command gets ``levels``, ``profile``, ``overrides``."""
    function = click.option(
        "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a setting. May be repeated."
    )(function)
    function = click.option("--profile", metavar="NAME", help="A file of jobs/profiles, or a path to one.")(function)
    return click.option(
        "--level",
        "levels",
        metavar="LEVEL",
        multiple=True,
        required=True,
        callback=lambda _ctx, _param, values: _levels(values),
        help="A1, A2, B1, B2, C1, or all. May be repeated.",
    )(function)


def _levels(values: Iterable[str]) -> list[str]:
    from cefr_batch.levels import Level

    named = [[level.value for level in Level] if value.lower() == "all" else [_level(value)] for value in values]
    return list(dict.fromkeys(level for levels in named for level in levels))


def _level(value: str) -> str:
    from cefr_batch.levels import Level  # here: it loads pydantic, which --help does without

    valid = [level.value for level in Level]
    if value.upper() not in valid:
        raise UsageError(f"--level: {value!r} is not a level; valid: {', '.join(valid)}")
    return value.upper()


def echo_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(to_json(value).decode(), nl=False)


def command_line(*words: str) -> str:
    """``cefr-batch WORDS`` as the user can paste it, with the ``--store`` that this command was given."""
    context = click.get_current_context()
    given = context.get_parameter_source("store") is ParameterSource.COMMANDLINE
    return shlex.join(("cefr-batch", *words, *(("--store", context.params["store"].url) if given else ())))


def all_runs(store: Store) -> list[str]:
    """The names of the store's runs, sorted."""
    return [name for name in store.folders(f"{layout.RUNS}/") if layout.is_run_name(name)]


def chosen_runs(store: Store, runs: Iterable[str], levels: Iterable[str]) -> list[str]:
    """The runs named and each level's newest, each once. Raises ``NotFound`` for one that does not exist and
    ``UsageError``, which lists the runs, where none is chosen."""
    known = all_runs(store)
    chosen = [_known(store, run, known) for run in runs]
    chosen += [_newest_first(store, level, known)[0] for level in levels]
    if not chosen:
        raise UsageError(f"name a run, or a level with --level. {_listing(store, known)}")
    return list(dict.fromkeys(chosen))


def chosen_complete_runs(store: Store, runs: Iterable[str], levels: Iterable[str]) -> list[str]:
    """As ``chosen_runs``, but of each level the newest run that is complete. Runs named need not be complete."""
    known = all_runs(store)
    chosen = [*runs, *(_newest_complete(store, level, known) for level in levels)]
    return chosen_runs(store, chosen, ())


def _newest_complete(store: Store, level: str, known: Sequence[str]) -> str:
    for run in _newest_first(store, level, known):
        if store.exists(layout.run_key(run, layout.MANIFEST)):
            return run
    raise NotFound(f"no complete run of level {level} in {store.url}. {_listing(store, known)}")


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


def no_runs(store: Store) -> str:
    """What to say of an empty store."""
    return f"There are no runs in {store.url}; `cefr-batch submit` starts one."


def _listing(store: Store, known: Sequence[str]) -> str:
    if not known:
        return no_runs(store)
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    return f"The runs in {store.url}: {shown}"


def _newest_first(store: Store, level: str, known: Sequence[str]) -> list[str]:
    """The level's runs. Raises ``NotFound`` if there is none."""
    of_level = [run for run in known if layout.run_level(run) == level]
    if not of_level:
        raise NotFound(f"no run of level {level} in {store.url}. {_listing(store, known)}")
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:  # the store may be far away
        claimed = dict(zip(of_level, pool.map(partial(_claimed_at, store), of_level), strict=True))
    return sorted(of_level, key=lambda run: (claimed[run], layout.run_version(run)), reverse=True)


def _claimed_at(store: Store, run: str) -> str:
    """When the run got its name; empty if that cannot be read, so that one broken run does not hide the others."""
    try:
        spec = store.get_json(layout.run_key(run, layout.SPEC))
    except StoreError:
        return ""
    return str(spec.get("submitted_at", "")) if isinstance(spec, dict) else ""
