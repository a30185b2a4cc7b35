"""``cefr-batch list``: all runs of the store."""

from __future__ import annotations

import click

from cefr_batch.cli.options import all_runs, echo_json, json_option, no_runs, store_option
from cefr_batch.cli.show import as_dicts, columns
from cefr_batch.cli.watch import wait_for
from cefr_batch.launch.state import RunState, run_states
from cefr_batch.store import Store


@click.command()
@click.option("--watch", is_flag=True, help="Keep showing until all are finished, then list them.")
@json_option
@store_option
def command(watch: bool, as_json: bool, store: Store) -> None:
    """List all runs of the store, the newest last."""
    runs = all_runs(store)
    found = wait_for(store, runs, to_stderr=as_json) if watch else run_states(store, runs)
    states = sorted(found, key=lambda state: state.submitted_at or "")
    if as_json:
        echo_json({"store": store.url, "runs": as_dicts(states)})
    elif states:
        click.echo("\n".join(columns([("RUN", "LEVEL", "STATE", "SUBMITTED", "WHY"), *map(_row, states)])))
    else:
        click.echo(no_runs(store))


def _row(state: RunState) -> tuple[str, ...]:
    why = state.reason.partition("\n")[0]
    return (state.run, state.level or "", state.state.value, state.submitted_at or "", why)
