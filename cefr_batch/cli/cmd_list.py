"""``cefr-batch list``: all runs of the store."""

from __future__ import annotations

import click

from cefr_batch.cli.options import all_runs, echo_json, json_option, no_runs, store_option
from cefr_batch.cli.show import as_dicts, columns
from cefr_batch.launch.state import RunState, run_states
from cefr_batch.store import Store


@click.command()
@json_option
@store_option
def command(as_json: bool, store: Store) -> None:
    """List all runs of the store, the newest last."""
    states = sorted(run_states(store, all_runs(store)), key=lambda state: state.submitted_at or "")
    if as_json:
        echo_json({"store": store.url, "runs": as_dicts(states)})
    elif states:
        click.echo("\n".join(columns([("RUN", "LEVEL", "STATE", "SUBMITTED"), *map(_row, states)])))
    else:
        click.echo(no_runs(store))


def _row(state: RunState) -> tuple[str, ...]:
    return (state.run, state.level or "", state.state.value, state.submitted_at or "")
