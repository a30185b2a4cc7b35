"""``cefr-batch list``: all runs of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cefr_batch.cli.options import echo_json, json_option, session_option
from cefr_batch.cli.printable import shortened
from cefr_batch.cli.show import as_dicts, colored, console, first_line, show, table
from cefr_batch.cli.watch import exit_unless_successful, wait_for
from cefr_batch.runner import RunState, Session
from cefr_batch.runner.selection import no_runs

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.command()
@click.option("--watch", is_flag=True, help="Keep showing until all have ended, then list them.")
@json_option
@session_option
def command(watch: bool, as_json: bool, session: Session) -> None:
    """List all runs of the store, the newest last. SUBMITTED is when a run's newest job was submitted: it changes when a
    run is resumed.

    With --watch it exits with 1 if one of them did not succeed.
    """
    runs = session.runs()
    found = wait_for(session, runs, to_stderr=as_json) if watch else session.status(runs)
    states = sorted(found, key=lambda state: state.submitted_at or "")
    if as_json:
        echo_json({"store": session.store.url, "runs": as_dicts(states)})
    elif states:
        terminal = console().is_terminal
        rows = [_row(state, terminal) for state in states]
        show(table(rows, ("RUN", "LEVEL", "STATE", "SUBMITTED", "WHY"), breaks_in=-1))
    else:
        click.echo(no_runs(session.store))
    if watch:
        exit_unless_successful(states)


def _row(state: RunState, terminal: bool) -> tuple[RenderableType, ...]:
    submitted = state.submitted_at or ""
    return (
        state.run,
        state.level or "",
        colored(state.state) if terminal else state.state.value,
        submitted[: len("2026-11-26T06:51")].replace("T", " ") if terminal else submitted,
        shortened(first_line(state.reason)),
    )
