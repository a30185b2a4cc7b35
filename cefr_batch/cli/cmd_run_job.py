"""``cefr-batch run-job``: one run, in this process. What every launcher starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from cefr_batch import layout
from cefr_batch.cli.options import chosen_runs, store_option
from cefr_batch.errors import UsageError
from cefr_batch.store import Store

_INDEX = "JOB_COMPLETION_INDEX"  # Kubernetes gives it to each pod of an Indexed Job


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
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
@click.option("--level", metavar="LEVEL", help="Begin RUN as one of this level, if the store does not have it yet.")
@click.option("--profile", metavar="NAME", help="With --level: a file of jobs/profiles, or a path to one.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="With --level: override a setting.")
@store_option
def command(
    runs: Sequence[str],
    work: Path | None,
    gpus: int,
    wait_turn: bool,
    level: str | None,
    profile: str | None,
    overrides: Sequence[str],
    store: Store,
) -> None:
    """Carry out one run in this process, from where it stopped.

    This is what `cefr-batch submit` starts. Ctrl-C or SIGTERM stores a checkpoint and ends it with exit code 75. Of
    several runs it is the one that JOB_COMPLETION_INDEX counts to, from 0.
    """
    run = _mine(runs)
    if level:
        _begin(store, run, level, profile, overrides)
    chosen_runs(store, [run], [])
    if wait_turn:
        from cefr_batch.launch.turns import Ticket

        ticket = Ticket.mine()
        ticket.wait()
    from cefr_batch.run.entry import run_job

    run_job(store, run, work or layout.default_work_root(), gpus)


def _mine(runs: Sequence[str]) -> str:
    if len(runs) == 1:
        return runs[0]
    index = os.environ.get(_INDEX, "")
    if not (index.isascii() and index.isdigit() and int(index) < len(runs)):
        raise UsageError(
            f"{_INDEX} is {index!r}, but must say which of {len(runs)} runs is meant, from 0 on; only an Indexed Job of "
            "Kubernetes 1.24 or newer sets it"
        )
    return runs[int(index)]


def _begin(store: Store, run: str, level: str, profile: str | None, overrides: Sequence[str]) -> None:
    """Check and claim the run as ``submit`` does, under a name that was chosen elsewhere. One that the store has goes on,
    if its settings are these."""
    from cefr_batch.data import store_dataset
    from cefr_batch.launch import get_launcher
    from cefr_batch.launch.prepare import prepare
    from cefr_batch.launch.submission import claim_as, read_spec
    from cefr_batch.spec import load_spec

    if not layout.is_run_name(run):
        raise UsageError(f"{run!r} is not a run's name (lower-case letters, digits and dashes)")
    here, key = get_launcher("local"), layout.run_key(run, layout.SPEC)
    spec = load_spec(level, profile=profile, overrides=overrides)
    if spec.backend == "auto":
        spec = spec.with_backend(next(iter(here.backends()), "peft"))
    if not store.exists(key):
        found = prepare([level], profile=profile, overrides=overrides, launcher=here, store=store, dry_run=False)
        (item,) = found.runs
        store_dataset(store, item.dataset)
        if claim_as(store, run, item.spec, item.dataset.sha256):
            return
    if read_spec(store, run) != spec:
        raise UsageError(f"the store has a run {run} with other settings; give this one another name")
