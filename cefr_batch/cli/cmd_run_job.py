"""``cefr-batch run-job``: one run, in this process. What every launcher starts."""

from __future__ import annotations

from pathlib import Path

import click

from cefr_batch import layout
from cefr_batch.cli.options import chosen_runs, store_option
from cefr_batch.store import Store


@click.command()
@click.argument("run")
@click.option(
    "--work", type=click.Path(file_okay=False, path_type=Path), help="Folder to work in. Default: in the cache."
)
@click.option(
    "--gpus",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="How many GPUs were promised: checked at the start.",
)
@click.option("--wait-turn", is_flag=True, help="Wait for the jobs submitted before on this machine.")
@store_option
def command(run: str, work: Path | None, gpus: int, wait_turn: bool, store: Store) -> None:
    """Carry out one run in this process, from where it stopped.

    This is what `cefr-batch submit` starts. Ctrl-C or SIGTERM stores a checkpoint and ends it with exit code 75.
    """
    chosen_runs(store, [run], [])
    if wait_turn:
        from cefr_batch.launch.turns import Ticket

        ticket = Ticket.mine()
        ticket.wait()
    from cefr_batch.run.entry import run_job

    run_job(store, run, work or layout.default_work_root(), gpus)
