"""Exports of runs in a store: made from their merged models, kept beside them."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from cefr_batch.cards.model_card import ModelPart, write_card
from cefr_batch.errors import Damaged, NotFound
from cefr_batch.export.make import ExportSource, finished_export, gguf_types, is_enough, make_gguf, merged_sha256
from cefr_batch.files import locked
from cefr_batch.records import layout
from cefr_batch.records.document import dump
from cefr_batch.records.exports import ExportRecord, GgufType, export_kind
from cefr_batch.runner.artifacts import Artifacts, Progress, no_progress, select_artifacts
from cefr_batch.runner.exports import read_export, stored_exports
from cefr_batch.runner.submission import read_dataset_name, read_spec
from cefr_batch.store.base import Store
from cefr_batch.store.datasets import fetch_dataset
from cefr_batch.store.manifest import local_path, of_manifest, read_manifest
from cefr_batch.store.transfer import TransferItem, download, upload

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """An export, where it is, and whether it was there already."""

    record: ExportRecord
    where: str
    was_there: bool


def export_gguf(
    store: Store,
    run: str,
    type_: GgufType,
    out: Path | None = None,
    *,
    verify: bool = True,
    progress: Progress = no_progress,
) -> Exported:
    """Export a complete run to a GGUF file: into the store, or into ``out``/<run>/<kind>. Blocks for minutes.

    Idempotent, as ``make_gguf`` is. Raises ``NotFound`` for a run without a merged model, ``StoreError``, and
    ``ExportError`` as ``make_gguf`` does.
    """
    cache = layout.pulled_cache(store.url, run)
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / ".export.lock"):
        merged = select_artifacts(store, run, [layout.MERGED])
        model = merged_sha256(
            {layout.object_name(run, one.key).removeprefix(f"{layout.MERGED}/"): one.sha256 for one in merged.items}
        )
        folder = out / run / export_kind(type_) if out else cache / layout.export_folder(export_kind(type_))
        there = finished_export(folder, model) if out else _stored(store, run, type_, model)
        enough = there if there and is_enough(there, verify) else None
        record = enough or make_gguf(fetch_source(merged, cache, progress), type_, folder, verify=verify)
        if out or not enough:
            write_card(folder, merged.documents, run, record)
        if not (out or enough):
            _store(store, run, record, folder)
            shutil.rmtree(folder)
    return Exported(record, str(folder) if out else _where(store, run, type_), was_there=enough is not None)


def fetch_part(store: Store, run: str, part: str, repository: str, progress: Progress = no_progress) -> Path:
    """A folder of this machine with a part of a complete run, and its card for a ``repository`` of the hub: ``adapter``,
    ``merged``, or a GGUF export, which is made if the store has none. Blocks; idempotent. Raises ``StoreError``,
    ``ExportError``."""
    cache = layout.pulled_cache(store.url, run)
    if part in get_args(ModelPart):
        artifacts = select_artifacts(store, run, [part])
        artifacts.fetch(cache, progress)
        write_card(cache / part, artifacts.documents, run, cast(ModelPart, part), repository)
        return cache / part
    (type_,) = gguf_types([part])
    record = export_gguf(store, run, type_, progress=progress).record
    if record.check is None:
        log.warning("%s is not verified: %s", record.file, record.not_verified)
    folder = _fetch_export(store, record, progress)
    write_card(folder, of_manifest(store, read_manifest(store, run)), run, record, repository)
    return folder


def fetch_gguf(store: Store, run: str, progress: Progress = no_progress) -> Path:
    """The GGUF file on this machine of the most exact export that the store has of a run. Blocks; idempotent. Raises
    ``NotFound`` if it has none, ``Damaged`` if its record is not that export's, ``StoreError``."""
    there = stored_exports(store, run)
    kind = next((kind for kind in map(export_kind, get_args(GgufType)) if kind in there), None)
    if kind is None:
        raise NotFound(f"{store.url} has no GGUF export of {run}; make it: `cefr-batch export {run} --to gguf`")
    record = read_export(store, run, kind)
    return _fetch_export(store, record, progress) / record.file


def _fetch_export(store: Store, record: ExportRecord, progress: Progress) -> Path:
    cache = layout.pulled_cache(store.url, record.run)
    items = [TransferItem(layout.run_key(record.run, one.key), one.size, one.sha256) for one in record.objects]
    with progress(record.run, sum(item.size for item in items)) as advance:
        download(store, items, lambda item: local_path(cache, layout.object_name(record.run, item.key)), advance)
    return cache / layout.export_folder(record.name)


def fetch_source(merged: Artifacts, cache: Path, progress: Progress) -> ExportSource:
    """A run's merged model and dataset in a folder of this machine, verified."""
    spec = read_spec(merged.documents, merged.run)
    merged.fetch(cache, progress)
    dataset = cache / layout.DATASETS
    fetch_dataset(merged.store, read_dataset_name(merged.store, merged.run), dataset)
    return ExportSource(merged.run, spec, cache / layout.MERGED, dataset)


def _where(store: Store, run: str, type_: GgufType) -> str:
    return store.locate(layout.run_key(run, layout.export_folder(export_kind(type_))))


def _stored(store: Store, run: str, type_: GgufType, model: str) -> ExportRecord | None:
    """The export of this very model that the store has whole; one with a damaged record is made again."""
    try:
        record = read_export(store, run, export_kind(type_))
    except (NotFound, Damaged):
        return None
    folder = layout.run_key(run, layout.export_folder(export_kind(type_))) + "/"
    sizes = {layout.object_name(run, one.key): one.size for one in store.objects(folder)}
    whole = all(sizes.get(one.key) == one.size for one in record.objects)
    return record if whole and record.merged_sha256 == model else None


def _store(store: Store, run: str, record: ExportRecord, folder: Path) -> None:
    """The record last: without it the export does not count, and while files are replaced it must not."""
    key = layout.run_key(run, layout.export_name(record.name))
    store.delete(key)
    names = [*(one.key for one in record.objects), layout.export_card(record.name)]
    upload(store, {layout.run_key(run, name): folder / name.rpartition("/")[2] for name in names})
    store.put(key, dump(record))
