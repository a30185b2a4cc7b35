"""Datasets in the store: by content, shared by the runs that train on them."""

from __future__ import annotations

from pathlib import Path

from cefr_batch.data import Dataset, read_dataset
from cefr_batch.data.examples import sha256_of
from cefr_batch.errors import DataError, Problem
from cefr_batch.records import layout
from cefr_batch.store.base import Store
from cefr_batch.store.transfer import fetch


def store_dataset(store: Store, dataset: Dataset) -> None:
    """Put the dataset where ``fetch_dataset`` finds it, unless it is there."""
    sides = ((layout.TRAIN_FILE, dataset.train_bytes), (layout.EVAL_FILE, dataset.eval_bytes))
    for name, data in sides:
        key = layout.dataset_key(dataset.sha256, name)
        if not store.exists(key):
            store.put(key, data)


def fetch_dataset(store: Store, sha256: str, folder: Path) -> Dataset:
    """The dataset of this name, through a copy in ``folder``. Raises ``DataError`` if it is not what its name says."""
    for fresh in (False, True):  # a damaged copy is fetched once more
        for name in (layout.TRAIN_FILE, layout.EVAL_FILE):
            if fresh or not (folder / name).is_file():
                fetch(store, layout.dataset_key(sha256, name), folder / name)
        sides = [(folder / name).read_bytes() for name in (layout.TRAIN_FILE, layout.EVAL_FILE)]
        if sha256_of("".join(f"{sha256_of(side)}\n" for side in sides).encode()) == sha256:
            return read_dataset(folder)
    place = store.locate(f"{layout.DATASETS}/{sha256}")
    what = "is damaged: the checksum (SHA-256) of its files differs from the one in its name"
    raise DataError([Problem(place, f"{what}; delete it and submit again")])
