"""``cefr-batch evaluate``: complete runs' models on other levels' evaluation sets, or on files."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import indent
from typing import Any

import click

from cefr_batch.cli.notice import notice_if_slow
from cefr_batch.cli.options import (
    cluster_option,
    echo_json,
    json_option,
    runs_options,
    session_option,
    wait_option,
)
from cefr_batch.cli.show import as_dicts, console, progress_table, show, table
from cefr_batch.cli.signals import interrupted_by_signals
from cefr_batch.cli.watch import require_evaluated, say_next, wait_for
from cefr_batch.errors import UsageError
from cefr_batch.records.evaluations import SetEvaluation
from cefr_batch.runner import Session
from cefr_batch.runner.evaluate import PreparedEvaluations
from cefr_batch.schedulers import Scheduler

_HEADINGS = ("RUN", "MODEL", "ON", "EXAMPLES", "LOSS", "RESPONSE LOSS", "RESPONSE PERPLEXITY")


@click.command()
@runs_options
@click.option(
    "--on",
    metavar="LEVEL|FILE",
    multiple=True,
    help="A level's evaluation set (of its newest complete run, or of its job file), all (of every level with a complete "
    "run), or a file of examples in list format. May be repeated.",
)
@click.option("--base", is_flag=True, help="Evaluate the models that the runs started from, too.")
@click.option("--examples", type=click.IntRange(min=1), metavar="N", help="Only the first N examples of each set.")
@cluster_option
@click.option("--dry-run", is_flag=True, help="Check everything and print what would be submitted; start nothing.")
@wait_option
@json_option
@session_option
def command(
    runs: Sequence[str],
    levels: Sequence[str],
    on: Sequence[str],
    base: bool,
    examples: int | None,
    scheduler: Scheduler[Any],
    dry_run: bool,
    wait: bool,
    as_json: bool,
    session: Session,
) -> None:
    """Evaluate the models of complete runs on other levels' examples, or on your own: losses, and sentences.

    Results are stored beside each run, and the report compares them. Those that are stored are not computed
    again, so repeat the command to continue after a failure. Without --on: show what is stored, and how far along the
    rest is.
    """
    chosen = session.find(runs, levels, complete=True)
    if not on:
        _refuse_without_sets(base, examples, dry_run)
        return _finish(session, chosen, wait, as_json)
    with notice_if_slow():
        prepared = session.prepare_evaluations(chosen, on, cluster=scheduler, base=base, examples=examples)
    if dry_run:
        return _preview(session, prepared, as_json)
    with interrupted_by_signals():
        submissions = session.launch_evaluations(prepared)
    if not as_json:
        for one in submissions:
            click.echo(f"{one.run}  {one.handle}")
    if submissions and not wait and not as_json:
        logs = [("logs", "-f", "--evaluation", one.run) for one in submissions]
        return say_next("The jobs continue when this terminal is closed. Next:", ("evaluate", *prepared.runs), *logs)
    return _finish(session, chosen, wait, as_json)


def _refuse_without_sets(base: bool, examples: int | None, dry_run: bool) -> None:
    if base or examples or dry_run:
        raise UsageError("--base, --examples and --dry-run need --on: what the models are to be evaluated on")


def _preview(session: Session, prepared: PreparedEvaluations, as_json: bool) -> None:
    request = session.preview_evaluations(prepared)
    if as_json:
        return echo_json({"store": session.store.url, "dry_run": True, "runs": request.runs, "request": request.text})
    if not request.runs:
        return click.echo("Nothing to do: everything is stored.")
    for run in request.runs:
        asked = ", ".join(f"{task.model} on {task.label}" for task in prepared.tasks[run])
        click.echo(f"{run}: {asked}")
    click.echo(indent(request.text, "  "))
    return click.echo("Nothing was started (--dry-run).")


def _finish(session: Session, runs: Sequence[str], wait: bool, as_json: bool) -> None:
    """Show what is stored, after waiting for the rest or with how far that is."""
    states = wait_for(session, runs, to_stderr=as_json, evaluations=True) if wait else session.evaluation_states(runs)
    stored = [one for run in runs for one in session.evaluations(run)]
    if as_json:
        results = [one.model_dump(mode="json") for one in stored]
        echo_json({"store": session.store.url, "runs": as_dicts(states), "evaluations": results})
    else:
        show(
            *([] if wait else progress_table(states, console())),
            *([table(map(_row, stored), _HEADINGS)] if stored else []),
        )
    if wait:
        require_evaluated(states)


def _row(one: SetEvaluation) -> tuple[str, ...]:
    full, response = one.losses.full, one.losses.response
    figures = (f"{full.loss:.4f}", f"{response.loss:.4f}", f"{response.perplexity:.3f}")
    return (one.run, one.task.model, one.task.label, f"{one.task.examples:,}", *figures)
