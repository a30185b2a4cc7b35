"""A complete run's objects as its manifest lists them. What it says is not trusted before it is checked."""

from __future__ import annotations

from pathlib import Path

from cefr_batch.errors import NotFound, StoreError
from cefr_batch.records import layout
from cefr_batch.records.manifest import Manifest
from cefr_batch.store.base import Store, check_key, path_below
from cefr_batch.store.transfer import TransferItem
from cefr_batch.store.views import CheckedStore


def read_manifest(store: Store, run: str) -> Manifest:
    """Raises ``NotFound`` if the run is not complete, ``StoreError`` if its manifest cannot be relied on."""
    key = layout.run_key(run, layout.MANIFEST)
    try:
        manifest = store.get_record(key, Manifest)
    except NotFound as exc:
        raise NotFound(
            f"{run} has not finished, so its files are not complete yet; see `cefr-batch status {run}`"
        ) from exc
    if manifest.run != run:
        raise StoreError(
            f"{store.locate(key)} belongs to the run {manifest.run!r}, not to {run!r}: if the folder {run} was renamed, "
            f"give it its name back; if it was copied and {manifest.run} is still there, remove the copy"
        )
    for stored in manifest.objects:
        check_key(stored.key)
    return manifest


def items_of(manifest: Manifest) -> tuple[TransferItem, ...]:
    """The run's objects under the keys of the store, in the order of the manifest."""
    return tuple(TransferItem(layout.run_key(manifest.run, one.key), one.size, one.sha256) for one in manifest.objects)


def of_manifest(store: Store, manifest: Manifest) -> CheckedStore:
    """The store, in which reading a document of the run that its manifest lists otherwise raises ``Damaged``."""
    return CheckedStore(store, items_of(manifest), "the run's manifest")


def local_path(folder: Path, name: str) -> Path:
    """Where an object of this name goes in a folder. Raises ``StoreError`` if a symbolic link leads out of it."""
    return path_below(folder, name)
