"""``cefr-batch cancel``: ask runs to stop."""

from __future__ import annotations

from collections.abc import Sequence

import click

from cefr_batch.cli.options import chosen_runs, command_line, runs_options, store_option
from cefr_batch.launch import get_launcher
from cefr_batch.launch.state import RunState, run_states
from cefr_batch.launch.submission import cancel, read_submission
from cefr_batch.store import Store


@click.command()
@runs_options
@store_option
def command(runs: Sequence[str], levels: Sequence[str], store: Store) -> None:
    """Ask runs to stop; does not wait for it.

    A running job finishes its step and stores a checkpoint first, from which `cefr-batch resume` goes on.
    """
    for state in run_states(store, chosen_runs(store, runs, levels)):
        click.echo(f"{state.run}: {_cancel(store, state)}")


def _cancel(store: Store, state: RunState) -> str:
    if state.state.finished:
        return f"nothing to stop, it is {state.state}"
    submission = read_submission(store, state.run)
    if submission is None:
        return "nothing to stop, it was never started"
    cancel(store, submission, get_launcher(submission.cluster))
    return f"asked to stop; {command_line('status', state.run)} shows when it has"
