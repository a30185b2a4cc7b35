"""``manifest.json``: what a complete run consists of. What it says is not trusted before it is checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cefr_batch import layout
from cefr_batch.errors import NotFound, StoreError
from cefr_batch.store.base import Store, check_key
from cefr_batch.store.transfer import Item

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """A complete run's objects, sorted by key. The keys of ``items`` are those of the store."""

    run: str
    complete_at: str
    items: tuple[Item, ...]

    def name(self, item: Item) -> str:
        """The item's key relative to the run."""
        return item.key.removeprefix(layout.run_key(self.run) + "/")

    def as_json(self, *, without: str) -> dict[str, Any]:
        """The manifest as it is stored, less the objects of a folder."""
        kept = [item for item in self.items if not self.name(item).startswith(f"{without}/")]
        objects = [{"key": self.name(item), "size": item.size, "sha256": item.sha256} for item in kept]
        return {"run": self.run, "complete_at": self.complete_at, "objects": objects}


def read_manifest(store: Store, run: str) -> Manifest:
    """Raises ``NotFound`` if the run is not complete, ``StoreError`` if its manifest cannot be relied on."""
    key = layout.run_key(run, layout.MANIFEST)
    try:
        record = store.get_json(key)
    except NotFound as exc:
        raise NotFound(f"{run} is not complete, so there is no list of its objects yet; see its status") from exc
    try:
        items = tuple(_item(run, entry) for entry in record["objects"])
        manifest = Manifest(str(record["run"]), str(record["complete_at"]), items)
    except (KeyError, TypeError, ValueError) as exc:
        raise StoreError(f"{store.locate(key)} is not a run's manifest ({exc!r}); was it edited?") from exc
    if manifest.run != run:
        raise StoreError(f"{store.locate(key)} is the manifest of {manifest.run}; was it copied?")
    return manifest


def _item(run: str, entry: Any) -> Item:
    name, size, sha256 = check_key(entry["key"]), entry["size"], entry["sha256"]
    if not isinstance(size, int) or size < 0 or not _SHA256.fullmatch(sha256):
        raise ValueError(entry)
    return Item(layout.run_key(run, name), size, sha256)


def local_path(folder: Path, name: str) -> Path:
    """Where an object of this name goes in a folder. Raises ``StoreError`` if a symbolic link leads out of it."""
    path = folder.joinpath(*check_key(name).split("/"))
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise StoreError(f"refused: {path.parent} is a symbolic link that leaves {folder}; remove it")
    return path
