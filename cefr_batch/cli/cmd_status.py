"""``cefr-batch status``: the state of runs."""

from __future__ import annotations

from collections.abc import Sequence

import click

from cefr_batch.cli.options import echo_json, json_option, runs_options, session_option
from cefr_batch.cli.show import as_dicts, console, progress_table, show
from cefr_batch.cli.watch import exit_unless_successful, wait_for
from cefr_batch.runner import Session
from cefr_batch.runner.selection import no_runs


@click.command()
@runs_options
@click.option("--watch", is_flag=True, help="Keep showing until all have ended.")
@json_option
@session_option
def command(runs: Sequence[str], levels: Sequence[str], watch: bool, as_json: bool, session: Session) -> None:
    """Show the state and progress of runs: those named, each level's newest, or all. A search's name stands for its trials.

    With --watch it exits with 1 if one of them did not succeed.
    """
    chosen = session.find(runs, levels, studies=True) if runs or levels else session.runs()
    states = wait_for(session, chosen, to_stderr=as_json) if watch else session.status(chosen)
    if as_json:
        echo_json({"store": session.store.url, "runs": as_dicts(states)})
    elif not chosen:
        click.echo(no_runs(session.store))
    elif not watch:
        show(*progress_table(states, console()))
    if watch:
        exit_unless_successful(states)
