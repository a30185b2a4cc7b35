"""``cefr-batch pull``: runs, or parts of them, into a folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from cefr_batch.cli.options import runs_options, session_option
from cefr_batch.cli.progress import byte_progress
from cefr_batch.cli.show import size
from cefr_batch.runner import Artifacts, Session
from cefr_batch.runner.artifacts import PARTS, check_parts

PULLED = "pulled"  # where runs go unless --to is given


def _parts(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[str]:
    named = [name.strip() for value in values for name in value.split(",")]
    check_parts(named)
    return named


@click.command()
@runs_options
@click.option(
    "--only", metavar="PART,...", multiple=True, callback=_parts, help=f"Only these parts of a run: {', '.join(PARTS)}."
)
@click.option(
    "--to",
    "folder",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=PULLED,
    show_default=True,
    help="Each run gets a folder of its name here.",
)
@session_option
def command(runs: Sequence[str], levels: Sequence[str], only: Sequence[str], folder: Path, session: Session) -> None:
    """Fetch complete runs: those named, and each level's newest complete one.

    With --only, finished parts of a run that is not complete can be fetched, too, such as the adapter of a
    run that failed after training. Every file is checked against its SHA-256. After an interruption, repeat the
    command: it continues where it stopped.
    """
    found = [session.artifacts(run, only, unfinished=True) for run in session.find(runs, levels, complete=True)]
    for artifacts in found:
        _pull(artifacts, folder / artifacts.run)


def _pull(artifacts: Artifacts, folder: Path) -> None:
    started = time.monotonic()
    artifacts.fetch(folder, byte_progress)
    seconds = time.monotonic() - started
    beside = "" if artifacts.manifest else "; the run is not complete"
    done = f"{len(artifacts.items)} files, {size(artifacts.size)}, verified, in {folder} ({seconds:.1f} s){beside}"
    click.echo(f"{artifacts.run}: {done}")
