"""What follows a start: the next commands, or waiting until all runs have ended.

Waiting shows a live table on a terminal, and a line per change elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from cefr_batch.cli.options import command_line, echo_json
from cefr_batch.cli.show import as_dicts, console, progress_line, progress_table, show
from cefr_batch.errors import JobFailed
from cefr_batch.runner import RunState, Session, State

if TYPE_CHECKING:
    from rich.console import Console

_STEP_LINE_SECONDS = 10.0  # between two lines that differ only in the step


def after_start(
    session: Session, runs: Sequence[str], *, wait: bool, as_json: bool = False, evaluations: bool = False
) -> None:
    """Print how to follow runs that were just started, or wait for them and, with ``evaluations``, for what their jobs
    evaluate then: ``JobFailed`` unless all succeed."""
    states = wait_for(session, runs, to_stderr=as_json) if wait else []
    complete = [state.run for state in states if state.state is State.SUCCEEDED] if evaluations else []
    evaluated = wait_for(session, complete, to_stderr=as_json, evaluations=True) if complete else []
    if as_json:
        echo_json({"store": session.store.url, "runs": as_dicts(states or session.status(runs))})
    elif not wait:
        logs = [("logs", "-f", run) for run in runs]
        say_next("\nThe runs continue when this terminal is closed. Next:", ("status", "--watch"), *logs, ("report",))
    if wait:
        require_success(states)
        require_evaluated(evaluated)
        click.echo(f"All succeeded. Compare them: {command_line('report', *runs)}", err=as_json)


def say_next(heading: str, *commands: Sequence[str]) -> None:
    """Print commands to go on with, as they can be pasted."""
    click.echo("\n".join([heading, *(f"  {command_line(*words)}" for words in commands)]))


def require_success(states: Sequence[RunState]) -> None:
    """Raise ``JobFailed`` with the reason of every run that did not succeed, and where to look."""
    failed = _failed(states)
    logs = [("logs", state.run) for state in failed if state.attempt]
    _require(failed, f"{len(failed)} of {len(states)} runs did not succeed:", logs)


def require_evaluated(states: Sequence[RunState]) -> None:
    """Raise ``JobFailed`` with the reason of every run whose evaluations did not all succeed, and where to look."""
    failed = _failed(states)
    logs = [("logs", state.run, "--evaluation") for state in failed]
    _require(failed, f"the evaluations of {len(failed)} of {len(states)} runs did not succeed:", logs)


def exit_unless_successful(states: Sequence[RunState]) -> None:
    """Exit with 1 if a run that was waited for ended otherwise; what is known of it has been shown. One that was never
    started has not ended."""
    if any(state.state.finished for state in _failed(states)):
        click.get_current_context().exit(1)


def _failed(states: Sequence[RunState]) -> list[RunState]:
    return [state for state in states if state.state is not State.SUCCEEDED]


def _require(failed: Sequence[RunState], heading: str, logs: Sequence[Sequence[str]]) -> None:
    if failed:
        reasons = [f"  {state.run}: {state.state}: {state.reason}" for state in failed]
        where = ["Their logs:", *(f"  {command_line(*words)}" for words in logs)] if logs else []
        raise JobFailed("\n".join([heading, *reasons, *where]))


def wait_for(
    session: Session, runs: Sequence[str], *, to_stderr: bool = False, evaluations: bool = False
) -> list[RunState]:
    """Show progress until every run has ended, or the ``evaluations`` of every run have, and return how. Raises
    ``WaitTimeout`` if a state stays unknown.

    Ctrl-C leaves with exit code 130, and the jobs continue.
    """
    screen = console(to_stderr=to_stderr)
    watched = session.watch_evaluations(runs) if evaluations else session.watch(runs)
    try:
        return _live(watched, screen) if screen.is_terminal else _lines(session, watched, to_stderr)
    except KeyboardInterrupt:
        click.echo("\nNo longer waiting; the jobs continue.", err=True)
        again = ("evaluate", *runs) if evaluations else ("status", *runs, "--watch")
        click.echo(f"  follow them:  {command_line(*again)}", err=True)
        click.echo(f"  stop them:    {command_line('cancel', *runs)}", err=True)
        click.get_current_context().exit(130)


def _live(watched: Iterator[list[RunState]], screen: Console) -> list[RunState]:
    from rich.console import Group
    from rich.live import Live

    states: list[RunState] = []
    with Live(console=screen, auto_refresh=False, transient=True) as live:
        for states in watched:
            live.update(Group(*progress_table(states, screen)), refresh=True)
    screen.print(*progress_table(states, screen), sep="\n")  # whole: a live display is cut at the screen's height
    return states


def _lines(session: Session, watched: Iterator[list[RunState]], to_stderr: bool) -> list[RunState]:
    shown: dict[str, tuple[RunState, float]] = {}
    states: list[RunState] = []
    for states in watched:
        now = session.clock.monotonic()
        for state in states:
            old, since = shown.get(state.run, (None, now))
            if old is None or _is_news(old, state, now - since):
                click.echo(progress_line(state), err=to_stderr)
                shown[state.run] = (state, now)
    show(*progress_table(states), to_stderr=to_stderr)
    return states


def _is_news(old: RunState, new: RunState, seconds: float) -> bool:
    if (old.state, old.stage, old.attempt) != (new.state, new.stage, new.attempt):
        return True
    return seconds > _STEP_LINE_SECONDS and progress_line(old) != progress_line(new)
