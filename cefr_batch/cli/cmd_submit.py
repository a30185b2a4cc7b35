"""``cefr-batch submit``: check everything, then start a run for each level."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from cefr_batch import layout
from cefr_batch.cli.notice import notice_if_slow
from cefr_batch.cli.options import cluster_option, echo_json, json_option, spec_options, store_option, wait_option
from cefr_batch.cli.watch import after_start
from cefr_batch.errors import CefrBatchError, LaunchError
from cefr_batch.launch import Batch, JobOrder, Launcher
from cefr_batch.launch.submission import claim, next_runs, start, unclaim
from cefr_batch.store import Store, below

if TYPE_CHECKING:
    from cefr_batch.launch.prepare import Prepared


@click.command()
@spec_options
@cluster_option
@click.option("--dry-run", is_flag=True, help="Check everything and print what would be started.")
@click.option("--force", is_flag=True, help="Submit even what seems not to fit on the cluster's GPU.")
@wait_option
@json_option
@store_option
def command(
    levels: Sequence[str],
    profile: str | None,
    overrides: Sequence[str],
    launcher: Launcher[Any],
    dry_run: bool,
    force: bool,
    wait: bool,
    as_json: bool,
    store: Store,
) -> None:
    """Start a run for each level, and for each value of a range as in --set training.seed=1..5.

    Everything is checked before anything starts: settings, data, lengths, model, store, machine or cluster. Runs go on
    when the terminal is closed. On this machine they wait for each other; on a cluster they are one job array, and a
    report that compares them comes after them.
    """
    from cefr_batch.launch.prepare import prepare

    with notice_if_slow():
        preparation = prepare(
            levels, profile=profile, overrides=overrides, launcher=launcher, store=store, dry_run=dry_run, force=force
        )
    for warning in preparation.warnings:
        click.echo(f"warning: {warning}", err=True)
    if dry_run:
        return _show(store, launcher, preparation.runs, as_json)
    runs = _start(store, launcher, preparation.runs, quiet=as_json)
    return after_start(store, runs, wait=wait, as_json=as_json)


def _show(store: Store, launcher: Launcher[Any], prepared: Sequence[Prepared], as_json: bool) -> None:
    """What would be submitted, under the names that the runs would get now."""
    runs = next_runs(store, [item.spec for item in prepared])
    request = launcher.describe(launcher.render(batch_of(store, launcher, runs, prepared)))
    if as_json:
        return echo_json({"store": store.url, "dry_run": True, "runs": runs, "request": request})
    click.echo("\n".join(runs))
    click.echo(indent(request, "  "))
    return click.echo("Nothing was started (--dry-run).")


def batch_of(store: Store, launcher: Launcher[Any], runs: Sequence[str], prepared: Sequence[Prepared]) -> Batch:
    """Jobs for these runs and, where the launcher can, a report after several."""
    report = below(store.url, layout.report_folder(runs[0])) if launcher.reports and len(runs) > 1 else None
    orders = (JobOrder(run, store.url, item.spec.resources.gpus) for run, item in zip(runs, prepared, strict=True))
    return Batch(tuple(orders), report)


def claim_prepared(store: Store, prepared: Sequence[Prepared]) -> list[str]:
    """Put the runs' data and settings into the store, under the names that are returned."""
    from cefr_batch.data import store_dataset

    for dataset in {item.dataset.sha256: item.dataset for item in prepared}.values():
        store_dataset(store, dataset)
    return claim(store, [(item.spec, item.dataset.sha256) for item in prepared])


def _start(store: Store, launcher: Launcher[Any], prepared: Sequence[Prepared], *, quiet: bool) -> list[str]:
    """Claim names and start their jobs; names whose jobs do not start are given back."""
    runs = claim_prepared(store, prepared)
    batch = batch_of(store, launcher, runs, prepared)
    try:
        submissions = start(store, launcher, batch)
    except CefrBatchError as exc:
        unclaim(store, runs)
        raise LaunchError(f"nothing was started: {exc}") from exc
    if not quiet:
        for item, one in zip(prepared, submissions, strict=True):
            click.echo(f"{item.spec.level}  {one.run}  {one.handle}")
        if batch.report_url:
            click.echo(f"After them, the report: {batch.report_url}")
    return runs
