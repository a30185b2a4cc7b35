"""Options that several commands have: the store, the choice of runs and levels, ``--json``."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from cefr_batch.cli.completion import complete_clusters, complete_levels, complete_profiles, complete_runs
from cefr_batch.cli.printable import printable_json
from cefr_batch.errors import UsageError
from cefr_batch.runner import Session
from cefr_batch.runner.selection import parse_levels
from cefr_batch.schedulers import get_scheduler, scheduler_names
from cefr_batch.store import DEFAULT_STORE, to_json

F = TypeVar("F", bound=Callable[..., Any])


def session_option(function: F) -> F:
    """``--store URL``; the command gets ``session``, with that store opened."""
    return click.option(
        "--store",
        "session",
        metavar="URL",
        envvar="CEFR_BATCH_STORE",
        default=DEFAULT_STORE,
        show_default=True,
        show_envvar=True,
        callback=lambda _ctx, _param, value: Session(value),
        help="The store, where runs are kept: a folder or a URL.",
    )(function)


def cluster_option(function: F) -> F:
    """``--cluster NAME``; the command gets ``scheduler``."""
    return click.option(
        "--cluster",
        "scheduler",
        metavar="NAME",
        default="local",
        show_default=True,
        shell_complete=complete_clusters,
        callback=lambda _ctx, _param, value: get_scheduler(value),
        help=f"Where jobs run: {scheduler_names()} (NAME: a site file in slurm/ or k8s/).",
    )(function)


def json_option(function: F) -> F:
    """``--json``; the command gets ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")(function)


def wait_option(function: F) -> F:
    """``--wait``; see ``cefr_batch.cli.watch.wait_for``."""
    text = "Show progress until all have ended; exit 0 only if all succeeded. Ctrl-C stops the waiting, not the jobs."
    return click.option("--wait", is_flag=True, help=text)(function)


def cross_evaluate_option(function: F) -> F:
    """``--cross-evaluate``"""
    text = "Once a run is complete, its job evaluates its model on the evaluation sets of the other levels, too."
    return click.option("--cross-evaluate", is_flag=True, help=text)(function)


def runs_options(function: F) -> F:
    """``[RUN]... [--level L]...``; the command gets ``runs`` and ``levels``, for ``Session.find``."""
    function = click.option(
        "--level",
        "levels",
        metavar="LEVEL",
        multiple=True,
        shell_complete=complete_levels,
        callback=_checked_levels,
        help="This level's newest run (newest complete one, if the command needs a complete run); all: of each level that "
        "has one. May be repeated.",
    )(function)
    return runs_argument(function)


def _checked_levels(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """As they were typed: the store tells which levels ``all`` stands for."""
    parse_levels(values)
    return values


def runs_argument(function: F) -> F:
    """``[RUN]...``; the command gets ``runs``."""
    return click.argument("runs", nargs=-1, metavar="[RUN]...", shell_complete=complete_runs)(function)


def spec_options(function: F) -> F:
    """``--level L... --profile P --set K=V...``; the command gets ``levels``, ``profile``, ``overrides``."""
    return levels_option(required=True)(settings_options(function))


def settings_options(function: F) -> F:
    """``--profile P --set K=V...``; the command gets ``profile``, ``overrides``."""
    function = click.option(
        "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a setting. May be repeated."
    )(function)
    return click.option(
        "--profile",
        metavar="NAME",
        multiple=True,
        shell_complete=complete_profiles,
        callback=_only_one_profile,
        help="A file of jobs/profiles, or a path to one.",
    )(function)


def levels_option(**options: Any) -> Callable[[F], F]:
    """``--level L...``, with more options of click; the command gets ``levels``, parsed."""
    return click.option(
        "--level",
        "levels",
        metavar="LEVEL",
        multiple=True,
        shell_complete=complete_levels,
        callback=lambda _ctx, _param, values: parse_levels(values),
        help="A1, A2, B1, B2, C1, or all; several separated by commas, or repeated.",
        **options,
    )


def _only_one_profile(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> str | None:
    if len(set(values)) > 1:
        raise UsageError(
            f"--profile can be given once, but is given {len(values)} times ({', '.join(values)}); put the settings of both "
            "into one file, and name its path"
        )
    return values[0] if values else None


def layout_options(function: F) -> F:
    """``--columns`` and ``--sheet``; the command gets ``columns`` and ``sheet``, for ``TableLayout.parse``."""
    function = click.option(
        "--sheet",
        metavar="NAME",
        help="The sheet of a spreadsheet. Default: the only visible one that has the columns.",
    )(function)
    return click.option(
        "--columns",
        metavar="word=NAME,sentence=NAME",
        help="The file's names for its columns, if not word and sentence.",
    )(function)


def echo_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(printable_json(to_json(value).decode()), nl=False)


def command_line(*words: str) -> str:
    """``cefr-batch WORDS`` as the user can paste it, with the ``--store`` that this command was given."""
    context = click.get_current_context()
    given = context.get_parameter_source("session") is ParameterSource.COMMANDLINE
    return shlex.join(("cefr-batch", *words, *(("--store", context.params["session"].store.url) if given else ())))
