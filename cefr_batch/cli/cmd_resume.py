"""``cefr-batch resume``: resume stopped runs."""

from __future__ import annotations

from collections.abc import Sequence

import click

from cefr_batch.cli.options import runs_options, session_option, wait_option
from cefr_batch.cli.signals import interrupted_by_signals
from cefr_batch.cli.watch import after_start
from cefr_batch.runner import Session


@click.command()
@runs_options
@click.option("--cluster", metavar="NAME", help="Resume on another cluster, named as for submit.")
@click.option(
    "--force",
    is_flag=True,
    help="Resume even if it is unknown whether the run's old job still runs, or if its new job seems unable to run.",
)
@wait_option
@session_option
def command(
    runs: Sequence[str], levels: Sequence[str], cluster: str | None, force: bool, wait: bool, session: Session
) -> None:
    """Resume runs that failed, were cancelled or preempted, from their newest checkpoint: where they ran, or with
    --cluster elsewhere, if that cluster reaches the store and the model.

    Finished stages are not repeated, and the settings are those that the run was submitted with.
    """
    with interrupted_by_signals():
        submissions = session.resume(session.find(runs, levels), cluster=cluster, force=force)
    for submission in submissions:
        click.echo(f"{submission.run}  {submission.handle}")
    after_start(session, [one.run for one in submissions], wait=wait)
