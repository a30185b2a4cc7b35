"""The exports of complete runs that are stored, beside their manifests."""

from __future__ import annotations

from cefr_batch.errors import AccessDenied, Damaged, StoreError, Unavailable
from cefr_batch.records import layout
from cefr_batch.records.exports import ExportRecord
from cefr_batch.store.base import Store
from cefr_batch.store.transfer import TransferItem, hashes


def stored_exports(store: Store, run: str) -> list[str]:
    """The kinds of the exports that are stored whole, sorted."""
    names = (layout.export_of(layout.object_name(run, one.key)) for one in store.objects(_folder(run)))
    return [name for name in names if name]


def read_export(store: Store, run: str, kind: str) -> ExportRecord:
    """The record of an export. Raises ``NotFound`` if there is none, ``Damaged`` for one that is another export's or names
    files elsewhere, ``StoreError`` for one that cannot be read."""
    key = layout.run_key(run, layout.export_name(kind))
    record = store.get_record(key, ExportRecord)
    if (record.run, record.name) != (run, kind):
        raise Damaged(f"{store.locate(key)} belongs to {record.name} of the run {record.run!r}; restore it from a copy")
    if any(one.key.rpartition("/")[0] != layout.export_folder(kind) for one in record.objects):
        raise Damaged(f"{store.locate(key)} names files outside of its folder; restore it from a copy")
    return record


def export_items(store: Store, run: str) -> tuple[list[TransferItem], dict[str, str]]:
    """The objects of all exports, as their records list them, and the records and cards, which are hashed now. And, by key,
    what is wrong with records that cannot be read; their exports are left out."""
    there = {layout.object_name(run, one.key): one for one in store.objects(_folder(run))}
    records = dict[str, ExportRecord]()
    wrong = dict[str, str]()
    for kind in [kind for name in there if (kind := layout.export_of(name))]:
        try:
            records[kind] = read_export(store, run, kind)
        except (Unavailable, AccessDenied):
            raise
        except StoreError as exc:
            wrong[there[layout.export_name(kind)].key] = str(exc)
    names = [name for kind in records for name in (layout.export_name(kind), layout.export_card(kind))]
    documents = [there[name] for name in names if name in there]
    sha256 = hashes(store, documents)
    items = [
        *(
            TransferItem(layout.run_key(run, file.key), file.size, file.sha256)
            for r in records.values()
            for file in r.objects
        ),
        *(TransferItem(one.key, one.size, sha256[one.key]) for one in documents),
    ]
    return items, wrong


def _folder(run: str) -> str:
    return layout.run_key(run, layout.EXPORTS) + "/"
