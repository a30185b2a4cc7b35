"""A run's dataset: where it comes from, and its place in the store, by content."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cefr_batch import layout
from cefr_batch.data.build import build_examples
from cefr_batch.data.examples import Example, check_examples, list_format, read_examples, sha256_of
from cefr_batch.data.pairs import read_pairs
from cefr_batch.data.reading import Findings
from cefr_batch.data.stats import words_of
from cefr_batch.errors import DataError, Problem

if TYPE_CHECKING:
    from cefr_batch.levels import DataSpec, Level
    from cefr_batch.store.base import Store


@dataclass(frozen=True)
class Dataset:
    train: tuple[Example, ...]
    eval: tuple[Example, ...]

    @cached_property
    def train_bytes(self) -> bytes:
        return list_format(self.train)

    @cached_property
    def eval_bytes(self) -> bytes:
        return list_format(self.eval)

    @cached_property
    def train_sha256(self) -> str:
        return sha256_of(self.train_bytes)

    @cached_property
    def eval_sha256(self) -> str:
        return sha256_of(self.eval_bytes)

    @property
    def sha256(self) -> str:
        """The dataset's name in the store."""
        return sha256_of(f"{self.train_sha256}\n{self.eval_sha256}\n".encode())


def load_dataset(spec: DataSpec, level: Level) -> Dataset:
    """Build the examples from sentence pairs, or read them. Raises ``DataError`` with the problems of all files."""
    if spec.source is not None:
        train, evaluation = build_examples(read_pairs(spec.source, level), spec, level)
        return Dataset(tuple(train), tuple(evaluation))
    findings = Findings()
    sides = []
    for name in (spec.train, spec.eval):
        examples, found = check_examples(Path(str(name)), warn=False)
        findings.errors += found.errors
        sides.append(tuple(examples))
    findings.raise_errors()
    return Dataset(*sides)


def read_dataset(folder: Path) -> Dataset:
    """The dataset that ``fetch_dataset`` left in a folder."""
    return Dataset(read_examples(folder / layout.TRAIN_FILE), read_examples(folder / layout.EVAL_FILE))


def unique_words(dataset: Dataset) -> int:
    """The different words that the instructions of both sides list, without case: 806 for the seed's B1 files."""
    return len(words_of(dataset.train) | words_of(dataset.eval))


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
                store.get_file(layout.dataset_key(sha256, name), folder / name)
        sides = [(folder / name).read_bytes() for name in (layout.TRAIN_FILE, layout.EVAL_FILE)]
        if sha256_of("".join(f"{sha256_of(side)}\n" for side in sides).encode()) == sha256:
            return read_dataset(folder)
    place = store.locate(f"{layout.DATASETS}/{sha256}")
    raise DataError([Problem(place, "is damaged: its files do not have this SHA-256; delete it and submit again")])
