"""``cefr-batch tensorboard``: runs in TensorBoard, which itself cannot read most object stores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from cefr_batch import layout
from cefr_batch.cli.options import all_runs, chosen_runs, no_runs, runs_options, store_option
from cefr_batch.errors import CefrBatchError, NotFound
from cefr_batch.store import Store
from cefr_batch.store.manifest import local_path

_POLL_SECONDS = 5.0


@click.command()
@runs_options
@click.option("--port", type=click.IntRange(0, 65535), default=6006, show_default=True, help="0: any free one.")
@click.option("--host", default="localhost", show_default=True, help="The address to listen on.")
@store_option
def command(runs: Sequence[str], levels: Sequence[str], port: int, host: str, store: Store) -> None:
    """Show the curves of runs in TensorBoard: those named, each level's newest, or all; running ones as they go on.

    Ctrl-C ends it.
    """
    if find_spec("tensorboard") is None:
        raise CefrBatchError(f"{sys.executable} has no tensorboard; pip install tensorboard")
    chosen = chosen_runs(store, runs, levels) if runs or levels else all_runs(store)
    if not chosen:
        raise NotFound(no_runs(store))
    with TemporaryDirectory(prefix="cefr-batch-") as folder:
        growing = [run for run in chosen if _fetch(store, run, Path(folder, run))]
        _serve(store, growing, Path(folder), ["--logdir", folder, "--port", str(port), "--host", host])


def _serve(store: Store, growing: list[str], folder: Path, options: Sequence[str]) -> None:
    """Run TensorBoard until it ends or Ctrl-C, and bring what the runs that are not complete write meanwhile."""
    process = subprocess.Popen([sys.executable, "-m", "tensorboard.main", *options, "--reload_interval", "5"])
    try:
        while True:
            try:
                code = process.wait(_POLL_SECONDS if growing else None)
            except subprocess.TimeoutExpired:
                growing = [run for run in growing if _fetch(store, run, folder / run)]
                continue
            if code:
                raise CefrBatchError(f"TensorBoard ended with exit code {code}")
            return
    except KeyboardInterrupt:
        return
    finally:
        process.terminate()
        process.wait()


def _fetch(store: Store, run: str, folder: Path) -> bool:
    """Bring what is new of a run's event files, which only grow; return whether more may come."""
    more = not store.exists(layout.run_key(run, layout.MANIFEST))
    prefix = layout.run_key(run, layout.TENSORBOARD) + "/"
    folder.mkdir(parents=True, exist_ok=True)
    for stored in store.objects(prefix):
        path = local_path(folder, stored.key.removeprefix(prefix))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            here = file.tell()
            if stored.size < here:  # another run's, whose name was given again
                here = file.truncate(0)
            if stored.size > here:
                file.write(store.get(stored.key, start=here))
    return more
