"""What follows a start: the next commands, or the wait until all runs are finished.

Waiting shows a live table on a terminal, and a line per change elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from cefr_batch.cli.options import command_line, echo_json
from cefr_batch.cli.show import as_dicts, progress_line, progress_table
from cefr_batch.errors import JobFailed
from cefr_batch.launch.base import State
from cefr_batch.launch.state import RunState, run_states
from cefr_batch.store import Store

if TYPE_CHECKING:
    from rich.console import Console

POLL_SECONDS = 1.0
_STEP_LINE_SECONDS = 10.0  # between two lines that differ only in the step


def after_start(store: Store, runs: Sequence[str], *, wait: bool, as_json: bool = False) -> None:
    """Say how to follow runs that were just started, or wait: then ``JobFailed`` unless all of them succeed."""
    states = wait_for(store, runs, to_stderr=as_json) if wait else []
    if as_json:
        echo_json({"store": store.url, "runs": as_dicts(states or run_states(store, runs))})
    elif not wait:
        click.echo("\nThey go on when this terminal is closed. Next:")
        for words in (("status", "--watch"), *(("logs", "-f", run) for run in runs), ("report",)):
            click.echo(f"  {command_line(*words)}")
    if wait:
        require_success(states)
        click.echo(f"All succeeded. Compare them: {command_line('report', *runs)}", err=as_json)


def wait_for(store: Store, runs: Sequence[str], *, to_stderr: bool = False) -> list[RunState]:
    """Show progress until every run is finished. Ctrl-C leaves with exit code 130, and the jobs go on."""
    try:
        return watch(store, runs, to_stderr=to_stderr)
    except KeyboardInterrupt:
        click.echo("\nNo longer waiting; the jobs go on.", err=True)
        click.echo(f"  follow them:  {command_line('status', *runs, '--watch')}", err=True)
        click.echo(f"  stop them:    {command_line('cancel', *runs)}", err=True)
        click.get_current_context().exit(130)


def require_success(states: Sequence[RunState]) -> None:
    """Raise ``JobFailed`` with the reason of every run that did not succeed, and where to look."""
    failed = [state for state in states if state.state is not State.SUCCEEDED]
    if failed:
        reasons = [f"  {state.run}: {state.state}: {state.reason}" for state in failed]
        logs = [f"  {command_line('logs', state.run)}" for state in failed if state.attempt]
        heading = f"{len(failed)} of {len(states)} runs did not succeed:"
        raise JobFailed("\n".join([heading, *reasons, *(["Their logs:", *logs] if logs else [])]))


def watch(store: Store, runs: Sequence[str], *, to_stderr: bool = False) -> list[RunState]:
    """Show progress until every run is finished, and return how they ended."""
    from rich.console import Console

    console = Console(stderr=to_stderr, highlight=False, markup=False)
    return _live(console, store, runs) if console.is_terminal else _lines(store, runs, to_stderr)


def _poll(store: Store, runs: Sequence[str]) -> Iterator[list[RunState]]:
    """The runs' states every second, until none will change."""
    while True:
        states = run_states(store, runs)
        yield states
        if all(state.settled for state in states):
            return
        time.sleep(POLL_SECONDS)


def _live(console: Console, store: Store, runs: Sequence[str]) -> list[RunState]:
    from rich.live import Live
    from rich.text import Text

    states: list[RunState] = []
    with Live(console=console, auto_refresh=False) as live:
        for states in _poll(store, runs):
            live.update(Text("\n".join(progress_table(states)), no_wrap=True, overflow="ellipsis"), refresh=True)
    return states


def _lines(store: Store, runs: Sequence[str], to_stderr: bool) -> list[RunState]:
    shown: dict[str, tuple[RunState, float]] = {}
    states: list[RunState] = []
    for states in _poll(store, runs):
        now = time.monotonic()
        for state in states:
            old, since = shown.get(state.run, (None, now))
            if old is None or _is_news(old, state, now - since):
                click.echo(progress_line(state), err=to_stderr)
                shown[state.run] = (state, now)
    click.echo("\n".join(progress_table(states)), err=to_stderr)
    return states


def _is_news(old: RunState, new: RunState, seconds: float) -> bool:
    if (old.state, old.stage, old.attempt) != (new.state, new.stage, new.attempt):
        return True
    return seconds > _STEP_LINE_SECONDS and progress_line(old) != progress_line(new)
