"""The exports of complete runs that are stored, beside their manifests."""

from __future__ import annotations

from cefr_batch.records import layout
from cefr_batch.records.exports import ExportRecord
from cefr_batch.store.base import ObjectInfo, Store
from cefr_batch.store.transfer import TransferItem, hashes


def stored_exports(store: Store, run: str) -> list[str]:
    """The kinds of the exports that are stored whole, sorted."""
    names = (layout.export_of(layout.object_name(run, one.key)) for one in _records(store, run))
    return [name for name in names if name]


def read_exports(store: Store, run: str) -> list[ExportRecord]:
    """The exports that are stored whole, by kind. Raises ``StoreError`` for a record that cannot be read."""
    return [store.get_record(one.key, ExportRecord) for one in _records(store, run)]


def export_items(store: Store, run: str) -> list[TransferItem]:
    """The objects of all exports, as their records list them, and the records and cards, which are hashed now."""
    there = {layout.object_name(run, one.key): one for one in store.objects(_folder(run))}
    kinds = [kind for name in there if (kind := layout.export_of(name))]
    records = [there[layout.export_name(kind)] for kind in kinds]
    documents = [*records, *(there[card] for kind in kinds if (card := layout.export_card(kind)) in there)]
    files = [file for one in records for file in store.get_record(one.key, ExportRecord).objects]
    sha256 = hashes(store, documents)
    return [
        *(TransferItem(layout.run_key(run, file.key), file.size, file.sha256) for file in files),
        *(TransferItem(one.key, one.size, sha256[one.key]) for one in documents),
    ]


def _records(store: Store, run: str) -> list[ObjectInfo]:
    return [one for one in store.objects(_folder(run)) if layout.export_of(layout.object_name(run, one.key))]


def _folder(run: str) -> str:
    return layout.run_key(run, layout.EXPORTS) + "/"
