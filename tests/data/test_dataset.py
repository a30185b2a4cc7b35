"""Datasets: loaded from pairs or files, stored by content, measured; leakage as published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.published import published

from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import DataSpec, Level
from cefr_batch.data import (
    Dataset,
    Example,
    leakage,
    load_dataset,
    read_dataset,
    unique_words,
)
from cefr_batch.data.examples import read_examples
from cefr_batch.data.stats import stats_of
from cefr_batch.errors import DataError, NotFound
from cefr_batch.records import layout
from cefr_batch.store.datasets import fetch_dataset, store_dataset
from cefr_batch.store.local import LocalStore


def example(words: list[str], sentences: list[str]) -> Example:
    def numbered(lines: list[str]) -> str:
        return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))

    return Example(f"Sentences for:\n{numbered(words)}", "", numbered(sentences))


TRAIN = (example(["cat", "dog"], ["A cat.", "A dog."]), example(["IT"], ["IT works."]))
EVAL = (example(["it", "owl"], ["A cat.", "An owl."]), example(["cat"], ["A cat."]))


def given(train: Path, evaluation: Path) -> DataSpec:
    return load_spec("B1", overrides=[f"data.train={train}", f"data.eval={evaluation}"]).data


def write(file: Path, items: Any) -> Path:
    file.write_text(json.dumps(items))
    return file


def test_leakage_counts_sentences_as_listed_and_words_without_case() -> None:
    share = leakage(TRAIN, EVAL)
    assert share.sentences_percent == pytest.approx(200 / 3)  # "A cat." twice, of three sentences
    assert share.words_percent == pytest.approx(200 / 3)  # it and cat, not owl
    assert share.near_sentences_percent == share.sentences_percent
    near = leakage([Example("", "", "My favourite colour is blue.")], [Example("", "", "my favorite colour is blue")])
    assert (near.sentences_percent, near.near_sentences_percent) == (0, 100)
    assert leakage(TRAIN, [Example("Say something", "", "A dog.")]).words_percent == 0
    assert leakage([], EVAL).sentences_percent == 0
    assert leakage(TRAIN, []).sentences_percent == 0


def test_statistics_count_different_words_and_sentences() -> None:
    stats = stats_of(TRAIN + EVAL, count=lambda examples: [len(e.output) for e in examples])
    assert (stats.examples, stats.unique_words, stats.sentences, stats.unique_sentences) == (4, 4, 6, 4)
    assert stats.longest_example_tokens == len(EVAL[0].output)
    assert stats_of(TRAIN).longest_example_tokens is None
    assert unique_words(Dataset(TRAIN, EVAL)) == 4


@pytest.mark.parametrize(("level", "percent", "words"), [("a1", 98, 897), ("a2", 98, 867), ("b1", 99, 806)])
def test_the_published_files_have_the_published_figures(level: str, percent: int, words: int) -> None:
    files = [published(f"training_data_{level}_list_format_{side}.json") for side in ("train", "eval")]
    data = Dataset(*(read_examples(file) for file in files))
    share = leakage(data.train, data.eval)
    assert round(share.sentences_percent) == percent
    assert share.words_percent == 100
    assert unique_words(data) == words
    assert (len(data.train), len(data.eval)) == (1800, 200)


def test_ready_files_are_loaded_and_a_file_name_is_found_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Dataset(TRAIN, EVAL)
    (tmp_path / "t.json").write_bytes(data.train_bytes)
    (tmp_path / "e.json").write_bytes(data.eval_bytes)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CEFR_BATCH_JOBS", str(Path(__file__).parents[2] / "jobs"))
    assert load_dataset(given(Path("t.json"), Path("e.json")), Level.B1) == data


def test_the_problems_of_both_files_come_together(tmp_path: Path) -> None:
    train = write(tmp_path / "t.json", [{"instruction": "a"}, 1])
    with pytest.raises(DataError) as caught:
        load_dataset(given(train, tmp_path / "none.json"), Level.B1)
    assert [str(problem) for problem in caught.value.problems] == [
        f"{train}: index 0 (from 0): output is missing",
        f"{train}: index 1 (from 0): must be an object with instruction, input and output, but is a number",
        f"{tmp_path / 'none.json'}: no such file",
    ]


def test_the_same_content_has_the_same_name_however_it_was_written(tmp_path: Path) -> None:
    items = [{"output": e.output, "instruction": e.instruction} for e in TRAIN]
    train = write(tmp_path / "t.json", items)
    evaluation = write(tmp_path / "e.json", json.loads(Dataset(TRAIN, EVAL).eval_bytes))
    assert load_dataset(given(train, evaluation), Level.B1).sha256 == Dataset(TRAIN, EVAL).sha256
    assert Dataset(EVAL, TRAIN).sha256 != Dataset(TRAIN, EVAL).sha256


def test_a_stored_dataset_comes_back_and_is_not_written_twice(tmp_path: Path) -> None:
    store, data = LocalStore(tmp_path / "store"), Dataset(TRAIN, EVAL)
    store_dataset(store, data)
    before = [(item.key, item.modified) for item in store.objects(f"{layout.DATASETS}/")]
    assert [key for key, _ in before] == [
        f"datasets/{data.sha256}/eval.json",
        f"datasets/{data.sha256}/train.json",
    ]
    store_dataset(store, data)
    assert [(item.key, item.modified) for item in store.objects(f"{layout.DATASETS}/")] == before
    assert fetch_dataset(store, data.sha256, tmp_path / "work") == data
    assert read_dataset(tmp_path / "work") == data


def test_a_damaged_copy_is_fetched_again_and_a_damaged_original_is_refused(tmp_path: Path) -> None:
    store, data, work = LocalStore(tmp_path / "store"), Dataset(TRAIN, EVAL), tmp_path / "work"
    store_dataset(store, data)
    work.mkdir()
    (work / layout.TRAIN_FILE).write_bytes(data.eval_bytes)
    assert fetch_dataset(store, data.sha256, work) == data
    store.put(layout.dataset_key(data.sha256, layout.EVAL_FILE), data.train_bytes)
    assert fetch_dataset(store, data.sha256, work) == data  # the copy is whole
    with pytest.raises(DataError, match=f"{data.sha256}: is damaged"):
        fetch_dataset(store, data.sha256, tmp_path / "other")
    with pytest.raises(NotFound):
        fetch_dataset(store, "0" * 64, tmp_path / "third")


def test_a_stored_dataset_is_read_as_it_stands_even_where_a_new_one_would_be_normalized(tmp_path: Path) -> None:
    """Version 0.1.0 stored texts as they were given; their bytes are the dataset's name."""
    odd = Dataset((Example("Say it", "", "1. Cafe\u0301\u200b.\r\n2. A cat."),), EVAL)
    store = LocalStore(tmp_path / "store")
    store_dataset(store, odd)
    assert fetch_dataset(store, odd.sha256, tmp_path / "work") == odd
