"""``cefr-batch verify``: is what is stored what was stored?"""

from __future__ import annotations

from collections.abc import Sequence

import click

from cefr_batch import layout
from cefr_batch.cli.options import chosen_complete_runs, runs_options, store_option
from cefr_batch.cli.progress import byte_progress
from cefr_batch.errors import StoreError
from cefr_batch.report.text import size
from cefr_batch.store import Store
from cefr_batch.store.manifest import read_manifest
from cefr_batch.store.transfer import verify


@click.command()
@runs_options
@store_option
def command(runs: Sequence[str], levels: Sequence[str], store: Store) -> None:
    """Check complete runs against their manifests: every object's size and SHA-256. Writes nothing."""
    wrong = [problem for run in chosen_complete_runs(store, runs, levels) for problem in _problems(store, run)]
    if wrong:
        raise StoreError("\n".join([f"{len(wrong)} objects are not as their manifest says:", *wrong]))


def _problems(store: Store, run: str) -> list[str]:
    """What is wrong with a run, a line per object."""
    manifest = read_manifest(store, run)
    sizes = {stored.key: stored.size for stored in store.objects(layout.run_key(run) + "/")}
    wrong = {item.key: "is missing" for item in manifest.items if item.key not in sizes}
    wrong |= {
        item.key: f"has {sizes[item.key]} bytes instead of {item.size}"
        for item in manifest.items
        if item.key in sizes and sizes[item.key] != item.size
    }
    rest = [item for item in manifest.items if item.key not in wrong]
    total = sum(item.size for item in rest)
    with byte_progress(run, total) as advance:
        wrong |= verify(store, rest, advance)
    if not wrong:
        click.echo(f"{run}: {len(rest)} objects, {size(total)}, as its manifest says")
    return [f"  {store.locate(key)}: {what}" for key, what in sorted(wrong.items())]
