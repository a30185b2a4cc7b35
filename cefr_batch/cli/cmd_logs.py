"""``cefr-batch logs``: a run's log, from the store."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import click

from cefr_batch.cli.options import runs_options, session_option
from cefr_batch.cli.printable import printable
from cefr_batch.cli.show import progress_line
from cefr_batch.errors import UsageError
from cefr_batch.runner import RunState, Session


@click.command()
@runs_options
@click.option("-f", "--follow", is_flag=True, help="Keep printing until the run has ended, or Ctrl-C.")
@click.option("--attempt", type=click.IntRange(min=1), help="The log of this attempt. Default: the newest.")
@click.option("--evaluation", is_flag=True, help="The log of the newest job that evaluates the run on other examples.")
@session_option
def command(
    runs: Sequence[str], levels: Sequence[str], follow: bool, attempt: int | None, evaluation: bool, session: Session
) -> None:
    """Print a run's log, or follow it."""
    chosen = session.find(runs, levels)
    if len(chosen) > 1:
        raise UsageError(f"logs shows one run at a time, but got {len(chosen)}: {', '.join(chosen)}")
    if follow and attempt:
        raise UsageError(
            "--attempt prints one attempt's log, --follow the newest one as it grows; give only one of them"
        )
    if evaluation and attempt:
        raise UsageError("--attempt prints a log of the run itself, --evaluation one of its evaluations; give only one")
    if follow:
        return _follow(session, chosen[0], evaluation)
    pieces = session.log_pieces(chosen[0], attempt, evaluation=evaluation)
    first = next(pieces, "")
    if not first:
        state = (session.evaluation_states if evaluation else session.status)(chosen)[0]
        return _show_without_log(session, state, "No log yet.", evaluation)
    if not (attempt or evaluation) and len(numbers := session.log_attempts(chosen[0])) > 1:
        click.echo(f"The log of attempt {numbers[-1]}; `--attempt {numbers[-2]}` shows the one before.", err=True)
    for text in chain([first], pieces):
        click.echo(printable(text), nl=False)
    return None


def _follow(session: Session, run: str, evaluation: bool) -> None:
    """Print the log as it grows; while there is none, each change of the run's state."""
    shown = ""
    try:
        for update in session.follow(run, evaluation=evaluation):
            click.echo(printable(update.text), nl=False)
            if not update.last:
                continue
            line = progress_line(update.state)
            if update.state.settled and update.attempt:
                click.echo(line, err=True)
            elif update.state.settled:
                _show_without_log(session, update.state, "No log.", evaluation)
            elif not update.attempt and line != shown:
                click.echo(f"No log yet. {line}", err=True)
                shown = line
    except KeyboardInterrupt:
        return


def _show_without_log(session: Session, state: RunState, heading: str, evaluation: bool) -> None:
    """The run's state, and what its scheduler has of its output."""
    click.echo(f"{heading} {progress_line(state)}", err=True)
    if output := session.scheduler_output(state.run, evaluation=evaluation):
        click.echo(printable(output))
