"""What runs left in the store: fetch it, verify it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from cefr_batch.errors import NotFound, UsageError
from cefr_batch.records import layout
from cefr_batch.records.document import Part
from cefr_batch.records.manifest import Manifest
from cefr_batch.records.stages import StageRecord
from cefr_batch.runner.exports import export_items
from cefr_batch.store.base import Store
from cefr_batch.store.manifest import items_of, local_path, of_manifest, read_manifest
from cefr_batch.store.transfer import TransferItem, download, fetch, hashes, verify

log = logging.getLogger(__name__)

_LEFT_OUT = (
    "an export of %s is left out: %s; if its record is damaged, `cefr-batch export %s --to …` makes the export again"
)

# Shows a transfer: called with a label and the total in bytes, it gives the function that takes the bytes done since.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

# The parts of a run that can be fetched alone -> their objects and folders.
PARTS = {
    "adapter": (layout.ADAPTER,),
    "merged": (layout.MERGED,),
    "tensorboard": (layout.TENSORBOARD,),
    "plots": (layout.PLOTS,),
    "report": (layout.METRICS, layout.SPEC, layout.EVALUATION, layout.GENERATION),
    "evaluations": (layout.EVALUATIONS,),
    "exports": (layout.EXPORTS,),
    "tracking": (layout.TRACKING,),
}


def no_progress(_label: str, _total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Shows nothing."""
    return nullcontext(lambda _bytes: None)


@dataclass(frozen=True)
class Artifacts:
    """Objects of a run: all of its ``manifest``, its exports and its evaluations on other sets, or those of some parts. A
    run that is not complete has no manifest; its objects are those that its finished stages recorded."""

    store: Store
    run: str
    items: tuple[TransferItem, ...]
    manifest: Manifest | None

    @property
    def documents(self) -> Store:
        """The store, in which the run's documents have to be those of its manifest."""
        return of_manifest(self.store, self.manifest) if self.manifest else self.store

    @property
    def size(self) -> int:
        """Bytes of all objects together."""
        return sum(item.size for item in self.items)

    def fetch(self, folder: Path, progress: Progress = no_progress) -> None:
        """Write the objects under ``folder``, check each against its SHA-256, and add a complete run's manifest.json, by
        which the copy can be checked again. Blocks.

        Idempotent: what is there and right stays, and an interrupted fetch continues where it stopped. Raises
        ``StoreError`` for an object that is missing or damaged, and where a file cannot be written.
        """
        paths = {item: local_path(folder, layout.object_name(self.run, item.key)) for item in self.items}
        with progress(self.run, self.size) as advance:
            download(self.store, self.items, paths.__getitem__, advance)
        if self.manifest:
            fetch(self.store, layout.run_key(self.run, layout.MANIFEST), local_path(folder, layout.MANIFEST))


def select_artifacts(store: Store, run: str, only: Sequence[str] = ()) -> Artifacts:
    """The objects of the parts named, of the whole run if none is, but for exports whose records cannot be read: a warning
    names those. Raises ``NotFound`` if the run is not complete or lacks a part, ``UsageError`` for a part that no run has.
    """
    check_parts(only)
    manifest = read_manifest(store, run)
    beside = _evaluations(store, run) if not only or "evaluations" in only else []
    beside += _exports(store, run) if not only or "exports" in only else []
    everything, items = (*items_of(manifest), *beside), list[TransferItem]()
    for part in only:
        wanted = _of_part(everything, run, part)
        if not wanted:
            raise NotFound(f"{run} stored no {part!r}; `cefr-batch pull {run}` fetches what it has")
        items += wanted
    return Artifacts(store, run, tuple(dict.fromkeys(items)) if only else everything, manifest)


def finished_artifacts(store: Store, run: str, only: Sequence[str]) -> Artifacts:
    """As ``select_artifacts``, and of a run that is not complete, the parts that its finished stages left whole: what a job
    leaves that failed after training. Raises ``NotFound`` if there is one that it does not have."""
    if not only or store.exists(layout.run_key(run, layout.MANIFEST)):
        return select_artifacts(store, run, only)
    check_parts(only)
    names = [layout.object_name(run, one.key) for one in store.objects(layout.run_key(run, layout.STAGES) + "/")]
    records = [
        store.get_record(layout.run_key(run, name), StageRecord[Part]) for name in names if name.endswith(".json")
    ]
    left = [
        TransferItem(layout.run_key(run, one.key), one.size, one.sha256) for record in records for one in record.objects
    ]
    found = {part: _of_part(left, run, part) for part in only}
    if missing := [part for part, items in found.items() if not items]:
        there = [part for part in only if part not in missing]
        rest = f"`cefr-batch pull {run} --only {','.join(there)}` fetches the rest" if there else "no part is whole yet"
        raise NotFound(f"{run} has not finished, and has no {' and no '.join(map(repr, missing))} to fetch yet; {rest}")
    return Artifacts(store, run, tuple(dict.fromkeys(chain(*found.values()))), None)


def _of_part(items: Iterable[TransferItem], run: str, part: str) -> list[TransferItem]:
    return [item for item in items if _belongs(layout.object_name(run, item.key), part)]


def _evaluations(store: Store, run: str) -> list[TransferItem]:
    """The evaluations that are stored beside the manifest, which does not list them: they are hashed now."""
    there = store.objects(layout.run_key(run, layout.EVALUATIONS) + "/")
    found = [one for one in there if layout.evaluation_of(layout.object_name(run, one.key))]
    sha256 = hashes(store, found)
    return [TransferItem(one.key, one.size, sha256[one.key]) for one in found]


def _exports(store: Store, run: str) -> list[TransferItem]:
    items, wrong = export_items(store, run)
    for why in wrong.values():
        log.warning(_LEFT_OUT, run, why, run)
    return items


def check_parts(names: Sequence[str]) -> None:
    """Raise ``UsageError`` unless all are names of parts."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise UsageError(f"--only: there is no part {', '.join(map(repr, unknown))}; valid: {', '.join(PARTS)}")


def _belongs(name: str, part: str) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in PARTS[part])


@dataclass(frozen=True)
class Verification:
    """What was compared with a run's manifest. ``problems``: what is wrong, by where the object is."""

    run: str
    objects: int
    size: int  # bytes
    problems: dict[str, str]


def verify_run(store: Store, run: str, progress: Progress = no_progress) -> Verification:
    """Compare the size and SHA-256 of every object of a complete run with its manifest, and of its exports with their
    records, of which one that cannot be read is a problem, too. Reads all of it; writes nothing.

    Raises ``NotFound`` if the run is not complete, ``StoreError`` if its manifest cannot be read.
    """
    listed = items_of(read_manifest(store, run))
    exports, unreadable = export_items(store, run)
    items = (*listed, *exports)
    sizes = {stored.key: stored.size for stored in store.objects(layout.run_key(run) + "/")}
    wrong = {key: why.removeprefix(f"{store.locate(key)} ") for key, why in unreadable.items()}
    for item in items:
        if item.key not in sizes:
            wrong[item.key] = "is missing"
        elif sizes[item.key] != item.size:
            wrong[item.key] = f"has {sizes[item.key]} bytes instead of {item.size}"
    rest = [item for item in items if item.key not in wrong]
    size = sum(item.size for item in rest)
    with progress(run, size) as advance:
        wrong |= verify(store, rest, advance)
    return Verification(run, len(rest), size, {store.locate(key): what for key, what in sorted(wrong.items())})
