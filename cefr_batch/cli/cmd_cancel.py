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
    states = run_states(store, chosen_runs(store, runs, levels))
    submissions = [one for state in states if not state.state.finished and (one := read_submission(store, state.run))]
    for kind in dict.fromkeys(one.launcher for one in submissions):
        cancel(store, [one for one in submissions if one.launcher == kind], get_launcher(kind))
    asked = {one.run for one in submissions}
    for state in states:
        click.echo(f"{state.run}: {_said(state, state.run in asked)}")


def _said(state: RunState, asked: bool) -> str:
    if asked:
        return f"asked to stop; {command_line('status', state.run)} shows when it has"
    if state.state.finished or not state.attempt:
        return f"nothing to stop, it {f'is {state.state}' if state.state.finished else 'was never started'}"
    return "not asked: it was not started by submit; whoever started it can stop it (kubectl delete job, or Ctrl-C)"
