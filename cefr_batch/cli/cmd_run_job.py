"""``cefr-batch run-job``: one run, in this process. What every scheduler starts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cefr_batch.cli.options import session_option
from cefr_batch.errors import CefrBatchError, UsageError
from cefr_batch.records import layout
from cefr_batch.runner import Session
from cefr_batch.schedulers import turn_in_local_queue

if TYPE_CHECKING:
    from cefr_batch.config.schema import RunSpec

_INDEX = "JOB_COMPLETION_INDEX"  # Kubernetes sets it in each pod of an Indexed Job


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--work", type=click.Path(file_okay=False, path_type=Path), help="Folder to work in. Default: in the cache."
)
@click.option(
    "--gpus", type=click.IntRange(min=0), default=0, metavar="N", help="GPUs that the job must find when it starts."
)
@click.option("--queued", is_flag=True, help="Wait for the jobs submitted earlier on this machine.")
@click.option(
    "--level", metavar="LEVEL", help="Create RUN with this level's settings if the store does not have it yet."
)
@click.option("--profile", metavar="NAME", help="With --level: a file of jobs/profiles, or a path to one.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="With --level: override a setting.")
@click.option(
    "--settings",
    metavar="JSON",
    multiple=True,
    help="Create RUN with these settings if the store does not have it yet. For several runs: once for each, in order.",
)
@session_option
def command(
    runs: Sequence[str],
    work: Path | None,
    gpus: int,
    queued: bool,
    level: str | None,
    profile: str | None,
    overrides: Sequence[str],
    settings: Sequence[str],
    session: Session,
) -> None:
    """Carry out one run in this process, from where it stopped.

    This is what `cefr-batch submit` starts. Ctrl-C, SIGTERM or SIGHUP stores a checkpoint and ends it with exit code 75. Of
    several runs it carries out the one with the index JOB_COMPLETION_INDEX, from 0.
    """
    from cefr_batch.job.store_retry import StoreRetry

    run = _mine(runs)
    with _permanent_errors_exit_2():
        spec: RunSpec | None = None
        if settings:
            spec = _given(settings, runs.index(run), len(runs))
        elif level:
            from cefr_batch.config.load import load_spec

            spec = load_spec(level, profile=profile, overrides=overrides)
        StoreRetry().fetch(lambda: _find_or_begin(session, run, spec))
        with turn_in_local_queue() if queued else nullcontext():
            from cefr_batch.job.supervisor import run_job

            run_job(session.store, run, work or layout.default_work_root(), gpus)


def _find_or_begin(session: Session, run: str, spec: RunSpec | None) -> None:
    """Make sure that the store has the run. Can be repeated where the store fails."""
    if spec:
        session.begin(run, spec)
    session.find([run])


@contextmanager
def _permanent_errors_exit_2() -> Iterator[None]:
    """Schedulers start a job again that failed, unless its exit code says that this would not help."""
    try:
        yield
    except CefrBatchError as exc:
        if exc.permanent:
            exc.exit_code = UsageError.exit_code
        raise


def _given(settings: Sequence[str], index: int, runs: int) -> RunSpec:
    from cefr_batch.config.load import recorded_spec

    if len(settings) != runs:
        raise UsageError(f"--settings is given {len(settings)} times for {runs} runs; give it once for each of them")
    try:
        found = json.loads(settings[index])
    except ValueError as exc:
        raise UsageError(f"--settings: this is not JSON: {exc}") from exc
    return recorded_spec(found, "--settings")


def _mine(runs: Sequence[str]) -> str:
    if len(runs) == 1:
        return runs[0]
    index = os.environ.get(_INDEX, "")
    if not (index.isascii() and index.isdigit()):
        what = f"is {index!r}, which is not a whole number" if index else "is not set"
        raise UsageError(
            f"{_INDEX} {what}; it must say which of the {len(runs)} runs this job carries out. The Job needs "
            "completionMode: Indexed (Kubernetes 1.24 or newer)"
        )
    if int(index) >= len(runs):
        raise UsageError(
            f"{_INDEX} is {index}, but there are {len(runs)} runs, 0 to {len(runs) - 1}; make `completions` of the Job "
            "equal to the number of runs"
        )
    return runs[int(index)]
