"""``cefr-batch tensorboard``: the curves of runs in TensorBoard, which itself cannot read most object stores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from cefr_batch.cli.options import runs_options, session_option
from cefr_batch.cli.signals import interrupted_by_signals
from cefr_batch.errors import CefrBatchError, NotFound
from cefr_batch.records import layout
from cefr_batch.runner import Session
from cefr_batch.runner.selection import no_runs
from cefr_batch.store import Store
from cefr_batch.store.manifest import local_path

_POLL_SECONDS = 5.0


@click.command()
@runs_options
@click.option("--port", type=click.IntRange(0, 65535), default=6006, show_default=True, help="0: any free port.")
@click.option("--host", default="localhost", show_default=True, help="The address to listen on.")
@session_option
def command(runs: Sequence[str], levels: Sequence[str], port: int, host: str, session: Session) -> None:
    """Show the curves of runs in TensorBoard: those named, each level's newest, or all; running ones are kept up to
    date.

    Ctrl-C ends it.
    """
    if find_spec("tensorboard") is None:
        python = sys.executable
        raise CefrBatchError(f"tensorboard is not installed for {python}; run: {python} -m pip install tensorboard")
    chosen = session.find(runs, levels) if runs or levels else session.runs()
    store = session.store
    if not chosen:
        raise NotFound(no_runs(store))
    with interrupted_by_signals(), TemporaryDirectory(prefix="cefr-batch-") as folder:
        growing = [run for run in chosen if _fetch(store, run, Path(folder, run))]
        _serve(store, growing, Path(folder), ["--logdir", folder, "--port", str(port), "--host", host])


def _serve(store: Store, growing: list[str], folder: Path, options: Sequence[str]) -> None:
    """Run TensorBoard until it ends or Ctrl-C, and keep fetching what runs that are not complete write."""
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
    """Fetch what is new of a run's event files, which only grow; return whether more may come."""
    more = not store.exists(layout.run_key(run, layout.MANIFEST))
    prefix = layout.run_key(run, layout.TENSORBOARD) + "/"
    folder.mkdir(parents=True, exist_ok=True)
    for stored in store.objects(prefix):
        path = local_path(folder, stored.key.removeprefix(prefix))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            here = file.tell()
            if stored.size < here:  # an older run's, whose name was used again
                here = file.truncate(0)
            if stored.size > here:
                file.write(store.get(stored.key, start=here))
    return more
