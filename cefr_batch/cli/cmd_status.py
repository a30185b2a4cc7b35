"""``cefr-batch status``: how runs are doing."""

from __future__ import annotations

from collections.abc import Sequence

import click

from cefr_batch.cli.options import all_runs, chosen_runs, echo_json, json_option, no_runs, runs_options, store_option
from cefr_batch.cli.show import as_dicts, progress_table
from cefr_batch.cli.watch import wait_for
from cefr_batch.launch.state import run_states
from cefr_batch.store import Store


@click.command()
@runs_options
@click.option("--watch", is_flag=True, help="Keep showing until all are finished.")
@json_option
@store_option
def command(runs: Sequence[str], levels: Sequence[str], watch: bool, as_json: bool, store: Store) -> None:
    """Show how runs are doing: those named, each level's newest, or all."""
    chosen = chosen_runs(store, runs, levels) if runs or levels else all_runs(store)
    states = wait_for(store, chosen, to_stderr=as_json) if watch else run_states(store, chosen)
    if as_json:
        echo_json({"store": store.url, "runs": as_dicts(states)})
    elif not chosen:
        click.echo(no_runs(store))
    elif not watch:
        click.echo("\n".join(progress_table(states)))
