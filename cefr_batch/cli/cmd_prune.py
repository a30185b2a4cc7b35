"""``cefr-batch prune``: remove runs by name, free space by rule."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import click

from cefr_batch.cli.options import runs_argument, session_option
from cefr_batch.cli.show import show, size, table
from cefr_batch.errors import UsageError
from cefr_batch.runner import PruneRules, Removal, Session


@click.command(short_help="Remove runs by name, checkpoints and old runs by rule.")
@runs_argument
@click.option("--checkpoints", is_flag=True, help="Remove checkpoints of complete runs: of all, or of those named.")
@click.option(
    "--failed",
    "failed_days",
    metavar="DAYS",
    type=click.FloatRange(min=0),
    help="Remove failed and cancelled runs whose last update is older than this.",
)
@click.option(
    "--unstarted",
    "unstarted_days",
    metavar="DAYS",
    type=click.FloatRange(min=0),
    help="Remove runs that got their names longer ago than this (for example by `render --claim`) but were never "
    "started.",
)
@click.option(
    "--keep",
    metavar="N",
    type=click.IntRange(min=1),
    help="Remove complete runs, except for the newest N of each level.",
)
@click.option("--force", is_flag=True, help="Remove named runs even if it is unknown whether their jobs still run.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@session_option
def command(
    runs: Sequence[str],
    checkpoints: bool,
    failed_days: float | None,
    unstarted_days: float | None,
    keep: int | None,
    force: bool,
    dry_run: bool,
    yes: bool,
    session: Session,
) -> None:
    """Remove the named runs with all that is stored of them (with --checkpoints, only their checkpoints); or, without
    names, what a rule says (--checkpoints, --failed, --unstarted, --keep). Shows what would be removed, and asks first.

    Rules touch only runs that are complete, failed, cancelled or were never started. The names of removed runs may be used
    again.
    """
    rules = PruneRules(checkpoints, failed_days, keep, tuple(runs), force, unstarted_days)
    rules.check()
    rules = replace(rules, runs=tuple(session.find(runs) if runs else ()))
    removals = session.find_removals(rules)  # first: it says which of the named runs cannot be removed
    if not (dry_run or yes or sys.stdin.isatty()):
        raise UsageError("prune asks before it removes, which needs a terminal; --yes removes without asking")
    if not removals:
        return click.echo("Nothing to remove.")
    _show(removals)
    if dry_run:
        return click.echo("Nothing was removed (--dry-run).")
    if not yes and not click.confirm("Remove all this?"):
        return click.echo("Nothing was removed.")
    for removal, why_not in session.remove(removals):
        click.echo(f"{removal.run}: {f'left alone: {why_not}' if why_not else f'removed {size(removal.size)}'}")
    return None


def _show(removals: Sequence[Removal]) -> None:
    rows = [(one.run, f"{len(one.objects)} objects", size(one.size), one.why) for one in removals]
    show(table(rows, ("RUN", "REMOVED", "SIZE", "WHY")), f"In all: {size(sum(one.size for one in removals))}")
