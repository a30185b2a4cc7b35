"""``cefr-batch render``: what submit would send, as text, for another hand to send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from cefr_batch.cli.cmd_submit import batch_of, claim_prepared
from cefr_batch.cli.notice import notice_if_slow
from cefr_batch.cli.options import cluster_option, spec_options, store_option
from cefr_batch.errors import CefrBatchError
from cefr_batch.launch import Launcher
from cefr_batch.launch.submission import unclaim
from cefr_batch.store import Store


@click.command()
@spec_options
@cluster_option
@click.option("--force", is_flag=True, help="Render even what seems not to fit on the cluster's GPU.")
@store_option
def command(
    levels: Sequence[str],
    profile: str | None,
    overrides: Sequence[str],
    launcher: Launcher[Any],
    force: bool,
    store: Store,
) -> None:
    """Print what starts a run for each level, and put into the store what the runs need.

    \b
        cefr-batch render --cluster k8s --level B1 > job.yaml
        kubectl apply -f job.yaml

    The runs have their names, settings and data in the store from then on, and can be started at any time, from
    anywhere. Neither the cluster nor its client is needed here. To look only: submit --dry-run.
    """
    from cefr_batch.launch.prepare import prepare

    with notice_if_slow():
        preparation = prepare(
            levels,
            profile=profile,
            overrides=overrides,
            launcher=launcher,
            store=store,
            dry_run=False,
            force=force,
            ask_launcher=False,
        )
    for warning in preparation.warnings:
        click.echo(f"warning: {warning}", err=True)
    runs = claim_prepared(store, preparation.runs)
    try:
        text = launcher.describe(launcher.render(batch_of(store, launcher, runs, preparation.runs)))
    except CefrBatchError:
        unclaim(store, runs)
        raise
    click.echo(text, nl=not text.endswith("\n"))
    click.echo(f"in {store.url}: {', '.join(runs)}; to be started by what was printed", err=True)
