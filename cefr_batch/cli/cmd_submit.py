"""``cefr-batch submit``: check everything, then start a run for each level."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from cefr_batch.cli.notice import notice_if_slow
from cefr_batch.cli.options import echo_json, json_option, spec_options, store_option, wait_option
from cefr_batch.cli.watch import after_start
from cefr_batch.errors import CefrBatchError, LaunchError
from cefr_batch.launch import LAUNCHERS, JobOrder, Launcher, get_launcher
from cefr_batch.launch.submission import claim, next_run, start, unclaim
from cefr_batch.store import Store

if TYPE_CHECKING:
    from cefr_batch.launch.prepare import Prepared


@click.command()
@spec_options
@click.option("--cluster", metavar="NAME", default="local", show_default=True, help=f"Where: {', '.join(LAUNCHERS)}.")
@click.option("--dry-run", is_flag=True, help="Check everything and print what would be started.")
@wait_option
@json_option
@store_option
def command(
    levels: Sequence[str],
    profile: str | None,
    overrides: Sequence[str],
    cluster: str,
    dry_run: bool,
    wait: bool,
    as_json: bool,
    store: Store,
) -> None:
    """Start a run for each level.

    Every level is checked before anything starts: settings, data, lengths, model, machine. On this machine runs wait
    for each other, and go on when the terminal is closed.
    """
    from cefr_batch.launch.prepare import prepare

    launcher = get_launcher(cluster)
    with notice_if_slow():
        prepared = prepare(levels, profile=profile, overrides=overrides, launcher=launcher)
    if dry_run:
        return _show(store, launcher, prepared, as_json)
    runs: list[str] = []
    for item in prepared:
        runs.append(_start(store, launcher, item, runs, quiet=as_json))
    return after_start(store, runs, wait=wait, as_json=as_json)


def _show(store: Store, launcher: Launcher[Any], prepared: Sequence[Prepared], as_json: bool) -> None:
    """What would be submitted, under the names that the runs would get now."""
    runs = [next_run(store, item.spec) for item in prepared]
    requests = [launcher.describe(launcher.render(JobOrder(run, store.url))) for run in runs]
    if as_json:
        shown = [{"run": run, "request": request} for run, request in zip(runs, requests, strict=True)]
        return echo_json({"store": store.url, "dry_run": True, "runs": shown})
    for run, request in zip(runs, requests, strict=True):
        click.echo(f"{run}\n{indent(request, '  ')}")
    return click.echo("Nothing was started (--dry-run).")


def _start(store: Store, launcher: Launcher[Any], item: Prepared, before: Sequence[str], *, quiet: bool) -> str:
    """Claim a name and start its job; a name whose job does not start is given back."""
    from cefr_batch.data import store_dataset

    store_dataset(store, item.dataset)
    run = claim(store, item.spec, item.dataset.sha256)
    try:
        submission = start(store, launcher, run)
    except CefrBatchError as exc:
        unclaim(store, run)
        started = f" Started before it, and going on: {', '.join(before)}." if before else ""
        raise LaunchError(f"level {item.spec.level} was not started: {exc}.{started}") from exc
    if not quiet:
        click.echo(f"{item.spec.level}  {run}  {submission.handle}")
    return run
