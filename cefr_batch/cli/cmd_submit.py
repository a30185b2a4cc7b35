"""``cefr-batch submit``: check everything, then start a run for each level."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from cefr_batch.cli.notice import notice_if_slow
from cefr_batch.cli.options import (
    cluster_option,
    cross_evaluate_option,
    echo_json,
    json_option,
    session_option,
    spec_options,
    wait_option,
)
from cefr_batch.cli.show import sources
from cefr_batch.cli.signals import interrupted_by_signals
from cefr_batch.cli.watch import after_start
from cefr_batch.runner import Request, Session
from cefr_batch.schedulers import Scheduler

if TYPE_CHECKING:
    from cefr_batch.runner.prepare import Preparation


@click.command()
@spec_options
@cluster_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check everything and print what would be submitted; start nothing. Exits with 1 if submit would refuse it.",
)
@click.option(
    "--force", is_flag=True, help="Submit even runs that do not seem to fit the GPU or to work on the cluster."
)
@cross_evaluate_option
@wait_option
@json_option
@session_option
def command(
    levels: Sequence[str],
    profile: str | None,
    overrides: Sequence[str],
    scheduler: Scheduler[Any],
    dry_run: bool,
    force: bool,
    cross_evaluate: bool,
    wait: bool,
    as_json: bool,
    session: Session,
) -> None:
    """Start a run for each level. Where --set gives a range or list, as in --set training.seed=1..5 --set
    lora.rank=8,16, start one for every combination of the values.

    Everything is checked before anything starts: settings, data, lengths, model, store, machine or cluster. The runs
    continue when the terminal is closed. On this machine they run one after another; on SLURM they are one job array,
    on Kubernetes Jobs, and if there are several runs, one more job there writes a report that compares them.
    """
    with notice_if_slow():
        preparation = session.prepare(
            levels,
            cluster=scheduler,
            profile=profile,
            overrides=overrides,
            force=force,
            dry_run=dry_run,
            cross_evaluate=cross_evaluate,
        )
    if dry_run:
        _show(session, session.preview(preparation), preparation.refused, as_json)
        if not as_json:
            _say_sources(preparation, profile)
        click.get_current_context().exit(1 if preparation.refused else 0)
    with interrupted_by_signals():
        launch = session.launch(preparation)
    if not as_json:
        for item, one in zip(preparation.runs, launch.submissions, strict=True):
            click.echo(f"{item.spec.level}  {one.run}  {one.handle}")
        _say_sources(preparation, profile)
        if launch.report_url:
            click.echo(f"The report will be written to {launch.report_url}")
    return after_start(session, launch.runs, wait=wait, as_json=as_json, evaluations=cross_evaluate)


def _say_sources(preparation: Preparation, profile: str | None) -> None:
    """Which job file and which data each level took, so that nobody trains on others than meant."""
    for line in dict.fromkeys(f"{item.spec.level}: {sources(item.spec, profile)}" for item in preparation.runs):
        click.echo(line)


def _show(session: Session, request: Request, refused: bool, as_json: bool) -> None:
    if as_json:
        shown = {"runs": request.runs, "request": request.text, "refused": refused}
        return echo_json({"store": session.store.url, "dry_run": True, **shown})
    click.echo("\n".join(request.runs))
    click.echo(indent(request.text, "  "))
    why = "; submit would refuse it, for the reasons in the warnings" if refused else ""
    return click.echo(f"Nothing was started (--dry-run{why}).")
