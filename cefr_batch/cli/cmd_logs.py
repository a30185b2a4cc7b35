"""``cefr-batch logs``: a run's log, from the store."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from cefr_batch import layout
from cefr_batch.cli.options import chosen_runs, runs_options, store_option
from cefr_batch.cli.show import progress_line
from cefr_batch.cli.watch import POLL_SECONDS
from cefr_batch.errors import NotFound, UsageError
from cefr_batch.launch.state import RunState, last_output, run_states
from cefr_batch.store import Store


@click.command()
@runs_options
@click.option("-f", "--follow", is_flag=True, help="Go on printing until the run is finished, or Ctrl-C.")
@click.option("--attempt", type=click.IntRange(min=1), help="The log of this attempt. Default: the newest.")
@store_option
def command(runs: Sequence[str], levels: Sequence[str], follow: bool, attempt: int | None, store: Store) -> None:
    """Print a run's log, or follow it."""
    chosen = chosen_runs(store, runs, levels)
    if len(chosen) > 1:
        raise UsageError(f"logs shows one run at a time; these are {len(chosen)}: {', '.join(chosen)}")
    if follow and attempt:
        raise UsageError("--attempt prints the log of one attempt; --follow goes on from the newest: give one of them")
    run = chosen[0]
    if not follow:
        return _print_one(store, run, attempt)
    try:
        return _follow(store, run)
    except KeyboardInterrupt:
        return None


def _print_one(store: Store, run: str, attempt: int | None) -> None:
    attempts = _attempts(store, run)
    if attempt and attempt not in attempts:
        raise NotFound(f"{run} has no log of attempt {attempt}; it has {', '.join(map(str, attempts)) or 'none yet'}")
    if attempts:
        _print_from(store, run, attempt or attempts[-1], 0)
    else:
        _explain(store, run_states(store, [run])[0], "No log yet. ")


def _explain(store: Store, state: RunState, heading: str = "") -> None:
    """How the run is; and, under a heading that says that it has no log, what its scheduler has of its output."""
    click.echo(f"{heading}{progress_line(state)}", err=True)
    if heading and (output := last_output(store, state.run)):
        click.echo(output)


def _follow(store: Store, run: str) -> None:
    """Print each attempt's log from the newest on, as they grow, until nothing more can come."""
    attempt, offset, waiting = 0, 0, ""
    while True:
        state = run_states(store, [run])[0]  # before the log is read: what comes after the end is not missed
        for number in [n for n in _attempts(store, run) if n >= attempt] if attempt else _attempts(store, run)[-1:]:
            offset = _print_from(store, run, number, offset if number == attempt else 0)
            attempt = number
        if state.settled:
            return _explain(store, state, "" if attempt else "No log. ")
        if not attempt and waiting != (waiting := progress_line(state)):
            click.echo(f"No log yet. {waiting}", err=True)
        time.sleep(POLL_SECONDS)


def _attempts(store: Store, run: str) -> list[int]:
    keys = (stored.key for stored in store.objects(layout.run_key(run, layout.LOGS) + "/"))
    return sorted(number for key in keys if (number := layout.log_attempt(key)))


def _print_from(store: Store, run: str, attempt: int, offset: int) -> int:
    """Print what this attempt's log has after ``offset`` and return the new offset. Bytes: a character may be cut."""
    data = store.get(layout.run_key(run, layout.log_name(attempt)), start=offset)
    click.echo(data, nl=False)
    return offset + len(data)
