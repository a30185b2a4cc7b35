"""``cefr-batch pull``: complete runs, or parts of them, into a folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from cefr_batch import layout
from cefr_batch.cli.options import chosen_complete_runs, runs_options, store_option
from cefr_batch.cli.progress import byte_progress
from cefr_batch.errors import NotFound, UsageError
from cefr_batch.report.text import size
from cefr_batch.store import Store
from cefr_batch.store.manifest import Manifest, local_path, read_manifest
from cefr_batch.store.transfer import Item, download

PULLED = "pulled"  # where runs go unless --to says otherwise

# What --only may name -> the objects or folders of a run.
PARTS = {
    "adapter": (layout.ADAPTER,),
    "merged": (layout.MERGED,),
    "tensorboard": (layout.TENSORBOARD,),
    "plots": (layout.PLOTS,),
    "report": (layout.METRICS, layout.SPEC, layout.EVALUATION, layout.GENERATION),
}


def _parts(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[str]:
    named = [name.strip() for value in values for name in value.split(",")]
    unknown = [name for name in named if name not in PARTS]
    if unknown:
        raise UsageError(f"--only: no part {', '.join(map(repr, unknown))}; valid: {', '.join(PARTS)}")
    return named


@click.command()
@runs_options
@click.option(
    "--only", metavar="PART,...", multiple=True, callback=_parts, help=f"Of each run only: {', '.join(PARTS)}."
)
@click.option(
    "--to",
    "folder",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=PULLED,
    show_default=True,
    help="Each run gets a folder of its name here.",
)
@store_option
def command(runs: Sequence[str], levels: Sequence[str], only: Sequence[str], folder: Path, store: Store) -> None:
    """Fetch complete runs: those named, and each level's newest complete one.

    Every file is checked against its SHA-256. After an interruption, repeat the command: it goes on where it stopped.
    """
    manifests = [read_manifest(store, run) for run in chosen_complete_runs(store, runs, levels)]
    chosen = [(manifest, parts_of(manifest, only)) for manifest in manifests]
    for manifest, items in chosen:
        _pull(store, manifest, items, folder / manifest.run)


def parts_of(manifest: Manifest, only: Sequence[str]) -> list[Item]:
    """The objects of the parts named, of the whole run if there is none. Raises ``NotFound`` for a part that it lacks."""
    items: list[Item] = []
    for part in only:
        wanted = [item for item in manifest.items if _belongs(manifest.name(item), part)]
        if not wanted:
            raise NotFound(f"{manifest.run} has no {part}")
        items += wanted
    return list(dict.fromkeys(items)) if only else list(manifest.items)


def _belongs(name: str, part: str) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in PARTS[part])


def _pull(store: Store, manifest: Manifest, items: Sequence[Item], folder: Path) -> None:
    started = time.monotonic()
    fetch(store, manifest, items, folder)
    seconds = time.monotonic() - started
    total = sum(item.size for item in items)
    click.echo(f"{manifest.run}: {len(items)} files, {size(total)}, verified, in {folder} ({seconds:.1f} s)")


def fetch(store: Store, manifest: Manifest, items: Sequence[Item], folder: Path) -> None:
    """Write these objects of a run under ``folder``, verified; what is there and right stays. Shows progress."""
    paths = {item: local_path(folder, manifest.name(item)) for item in items}
    with byte_progress(manifest.run, sum(item.size for item in items)) as advance:
        download(store, items, paths.__getitem__, advance)
