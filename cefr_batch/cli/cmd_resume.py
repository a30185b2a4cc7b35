"""``cefr-batch resume``: go on with runs that stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from cefr_batch.cli.options import chosen_runs, command_line, runs_options, store_option, wait_option
from cefr_batch.cli.watch import after_start
from cefr_batch.errors import NotReady, Problem
from cefr_batch.launch import Batch, JobOrder, get_launcher
from cefr_batch.launch.base import State
from cefr_batch.launch.state import RunState, run_states
from cefr_batch.launch.submission import forget_cancel, read_spec, read_submission, start
from cefr_batch.store import Store


@click.command()
@runs_options
@click.option("--force", is_flag=True, help="Even if it cannot be seen from here whether the run's job still lives.")
@wait_option
@store_option
def command(runs: Sequence[str], levels: Sequence[str], force: bool, wait: bool, store: Store) -> None:
    """Go on with runs that failed, were cancelled or preempted, from their newest checkpoint.

    Finished stages are not repeated, and the settings are those with which the run was submitted.
    """
    states = run_states(store, chosen_runs(store, runs, levels))
    ready = {state.run: _launcher(store, state, force) for state in states}
    problems = [Problem(run, why) for run, (_, why) in ready.items() if why]
    problems = problems or _not_ready(store, {run: launcher for run, (launcher, _) in ready.items()})
    if problems:
        raise NotReady(dict.fromkeys(problems), exit_code=1)
    forget_cancel(store, ready)
    for launcher in dict.fromkeys(launcher for launcher, _ in ready.values()):
        orders = tuple(_order(store, run) for run, (one, _) in ready.items() if one == launcher)
        for submission in start(store, get_launcher(launcher), Batch(orders)):
            click.echo(f"{submission.run}  {submission.handle}")
    after_start(store, list(ready), wait=wait)


def _launcher(store: Store, state: RunState, force: bool) -> tuple[str, str]:
    """Where the run goes on, and why it cannot (empty: it can). Raises ``StoreError`` where its records cannot be read."""
    submission = read_submission(store, state.run)
    launcher = submission.cluster if submission else "local"
    if state.state is State.SUCCEEDED:
        return launcher, "is complete, there is nothing to resume"
    if state.state in (State.PENDING, State.RUNNING):
        return launcher, f"is {state.state} already; {command_line('logs', '-f', state.run)} shows it"
    if submission is None and state.attempt and not force:
        how = "start its job again where it ran (kubectl delete job, then apply)"
        return launcher, f"was not started by submit; {how}, or with --force here"
    if state.state is State.UNKNOWN and submission and not force:
        return launcher, f"{state.reason}; if its job is surely gone, --force starts it again"
    return launcher, ""


def _order(store: Store, run: str) -> JobOrder:
    return JobOrder(run, store.url, read_spec(store, run).resources.gpus)


def _not_ready(store: Store, launchers: Mapping[str, str]) -> list[Problem]:
    """What would keep these runs from going on at their launchers."""
    problems = []
    for launcher in dict.fromkeys(launchers.values()):
        runs = [run for run, one in launchers.items() if one == launcher]
        backends = {read_spec(store, run).backend for run in runs}
        checks = get_launcher(launcher).check(sorted(backends), store.url)
        problems += [Problem("", check.problem) for check in checks if check.problem and not check.warning]
    return problems
