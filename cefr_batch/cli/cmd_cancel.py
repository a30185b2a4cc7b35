"""``cefr-batch cancel``: ask runs to stop."""

from __future__ import annotations

from collections.abc import Sequence

import click

from cefr_batch.cli.options import command_line, runs_options, session_option
from cefr_batch.cli.printable import printable
from cefr_batch.runner import Cancellation, Session


@click.command()
@runs_options
@session_option
def command(runs: Sequence[str], levels: Sequence[str], session: Session) -> None:
    """Ask runs to stop; does not wait until they have.

    A running job finishes its step and stores a checkpoint first, from which `cefr-batch resume` continues. For a
    complete run, the job that evaluates it on other examples is stopped, if there is one. A search's name stands for its
    trials; `cefr-batch search --resume` continues them. Exits with 1 if a run was not
    started by submit, since whoever started it has to stop it.
    """
    cancelled = session.cancel(session.find(runs, levels, studies=True))
    for one in cancelled:
        click.echo(f"{one.state.run}: {printable(_outcome(one))}")
    if any(one.foreign for one in cancelled):
        click.get_current_context().exit(1)


def _outcome(one: Cancellation) -> str:
    if one.evaluating:
        shows = command_line("evaluate", one.state.run)
        return f"complete; the job that evaluates it was asked to stop; {shows} shows when it has"
    if one.asked:
        return f"asked to stop; {command_line('status', one.state.run)} shows when it has"
    if one.foreign:
        return "not asked: it was not started by submit; whoever started it can stop it (kubectl delete job, or Ctrl-C)"
    if one.state.never_started:
        removes = command_line("prune", one.state.run)
        return (
            f"was never started, so there is nothing to stop; {removes} removes it, so that no job can start it later"
        )
    return f"nothing to stop, it is {one.state.state}"
