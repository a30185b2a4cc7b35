"""A run's dataset: where it comes from, and its name, which is its content's."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cefr_batch.data.build import build_examples, held_out_of
from cefr_batch.data.examples import Example, list_format, parse_examples, sha256_of
from cefr_batch.data.io import BY_SETTING, Diagnostics, TableLayout, read_data_file, read_examples_file
from cefr_batch.data.pairs import read_pairs
from cefr_batch.data.stats import words_of
from cefr_batch.errors import DataError, Problem
from cefr_batch.records import layout

if TYPE_CHECKING:
    from cefr_batch.config.schema import DataSpec, Level


@dataclass(frozen=True)
class Dataset:
    """The examples of both sides; the properties are the files that stand for them, and their names."""

    train: tuple[Example, ...]
    eval: tuple[Example, ...]

    @cached_property
    def train_bytes(self) -> bytes:
        """The training file, in list format."""
        return list_format(self.train)

    @cached_property
    def eval_bytes(self) -> bytes:
        """The evaluation file, in list format."""
        return list_format(self.eval)

    @cached_property
    def train_sha256(self) -> str:
        """The hex SHA-256 of the training file."""
        return sha256_of(self.train_bytes)

    @cached_property
    def eval_sha256(self) -> str:
        """The hex SHA-256 of the evaluation file."""
        return sha256_of(self.eval_bytes)

    @property
    def sha256(self) -> str:
        """The dataset's name in the store: the SHA-256 of both files' SHA-256."""
        return sha256_of(f"{self.train_sha256}\n{self.eval_sha256}\n".encode())


def layout_of(spec: DataSpec) -> TableLayout:
    """Which sheet and columns of its source the settings name."""
    columns = spec.columns.model_dump(exclude_none=True) if spec.columns else {}
    return TableLayout(columns, spec.sheet, BY_SETTING)


def load_dataset(spec: DataSpec, level: Level, named: TableLayout | None = None) -> Dataset:
    """Build the examples from sentence pairs, or read them. Raises ``DataError`` with the problems of all files.

    ``named``: the layout of the source, where options of a command say it; by default the settings'.
    """
    if spec.source is not None:
        pairs = read_pairs(spec.source, level, named or layout_of(spec))
        train, evaluation = build_examples(pairs, spec, level)
        return Dataset(tuple(train), tuple(evaluation))
    files = [read_examples_file(Path(str(name))) for name in (spec.train, spec.eval)]
    sides = [tuple(parse_examples(file, warn=False)) for file in files]
    Diagnostics([error for file in files for error in file.diagnostics.errors]).raise_errors()
    return Dataset(*sides)


def load_validation(spec: DataSpec, level: Level, dataset: Dataset) -> Dataset:
    """A dataset's training side alone, split again into what is trained on and a validation part: to choose settings by,
    without a sentence of the evaluation side. Sentence pairs are split as ``split_by`` says; ready files by example.

    Raises ``DataError`` where the training side does not suffice.
    """
    if spec.source is not None:
        pairs = read_pairs(spec.source, level, layout_of(spec))
        train, validation = build_examples(pairs, spec, level, within_training=True)
        return Dataset(tuple(train), tuple(validation))
    mixed = list(dataset.train)
    random.Random(spec.seed).shuffle(mixed)  # noqa: S311 (no secret)
    held_out = held_out_of(len(mixed), spec)
    if held_out < 1:
        what = "has one example, so no validation part can be split off; add examples"
        raise DataError([Problem(f"data.train {spec.train}", what)])
    return Dataset(tuple(mixed[held_out:]), tuple(mixed[:held_out]))


def read_dataset(folder: Path) -> Dataset:
    """The dataset that ``store.datasets.fetch_dataset`` left in a folder, its texts exactly as they stand there."""
    return Dataset(*(_stored(folder / name) for name in (layout.TRAIN_FILE, layout.EVAL_FILE)))


def _stored(path: Path) -> tuple[Example, ...]:
    if path.read_bytes() == list_format(()):  # the training side of a set that models are only evaluated on
        return ()
    file = read_data_file(path, normalize=False)
    examples = parse_examples(file, warn=False)
    file.diagnostics.raise_errors()
    return tuple(examples)


def unique_words(dataset: Dataset) -> int:
    """The different words that the instructions of both sides list, without case."""
    return len(words_of(dataset.train) | words_of(dataset.eval))
