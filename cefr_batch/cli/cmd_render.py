"""``cefr-batch render``: what ``submit`` would send, as text for somebody else to send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from cefr_batch.cli.notice import notice_if_slow
from cefr_batch.cli.options import cluster_option, cross_evaluate_option, session_option, spec_options
from cefr_batch.errors import UsageError
from cefr_batch.runner import Session
from cefr_batch.schedulers import Scheduler


@click.command()
@spec_options
@cluster_option
@click.option("--claim", is_flag=True, help="Store settings and data now, under the next free names.")
@click.option(
    "--force",
    is_flag=True,
    help="With --claim: render even runs that do not seem to fit the GPU or to work on the cluster.",
)
@cross_evaluate_option
@session_option
def command(
    levels: Sequence[str],
    profile: str | None,
    overrides: Sequence[str],
    scheduler: Scheduler[Any],
    claim: bool,
    force: bool,
    cross_evaluate: bool,
    session: Session,
) -> None:
    """Print the manifests or scripts that start a run for each level.

    \b
        cefr-batch render --cluster k8s --level B1 > job.yaml
        kubectl apply -f job.yaml

    Contacts no cluster and stores nothing: the same settings give the same text, and each job claims
    its run's name in the store when it starts. With --claim, names, settings and data are stored at once, and
    everything that can be checked without the cluster is checked.
    """
    if claim:
        with notice_if_slow():
            preparation = session.prepare(
                levels,
                cluster=scheduler,
                profile=profile,
                overrides=overrides,
                force=force,
                ask_scheduler=False,
                cross_evaluate=cross_evaluate,
            )
        request = session.render(preparation)
    elif cross_evaluate:
        raise UsageError("--cross-evaluate stores what the runs are to evaluate, which needs --claim")
    else:
        request = session.render_unclaimed(levels, cluster=scheduler, profile=profile, overrides=overrides)
    click.echo(request.text, nl=not request.text.endswith("\n"))
    done = f"stored in {session.store.url}" if claim else "nothing is stored yet; each job claims its run"
    click.echo(f"{done}: {', '.join(request.runs)}; start them with the printed text", err=True)
