"""Sentence pairs from CSV, JSON and JSONL files, and the starter corpus."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from published import published

from cefr_batch.data.pairs import Pair, check_pairs, holds_pairs, read_pairs, starter_file
from cefr_batch.errors import DataError
from cefr_batch.levels import Level

_text = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufffd"), min_size=1, max_size=30
).filter(lambda text: text.strip() != "")
_pairs = st.lists(st.tuples(_text, _text), min_size=1, max_size=8)


def _expected(pairs: list[tuple[str, str]]) -> list[Pair]:
    return [Pair(" ".join(word.split()), " ".join(sentence.split())) for word, sentence in pairs]


def _csv(pairs: list[tuple[str, str]], delimiter: str, newline: str, quoting: int) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=newline, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([("word", "sentence"), *pairs])
    return out.getvalue()


@hypothesis.settings(deadline=None)
@given(
    pairs=_pairs,
    delimiter=st.sampled_from(",;\t"),
    newline=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    mark=st.booleans(),
)
def test_csv_gives_back_what_a_spreadsheet_wrote(
    tmp_path_factory: pytest.TempPathFactory,
    pairs: list[tuple[str, str]],
    delimiter: str,
    newline: str,
    quoting: int,
    mark: bool,
) -> None:
    file = tmp_path_factory.mktemp("csv") / "pairs.csv"
    text = _csv(pairs, delimiter, newline, quoting)
    file.write_bytes(text.encode("utf-8-sig" if mark else "utf-8"))
    assert read_pairs(str(file), Level.A1) == _expected(pairs)


@hypothesis.settings(deadline=None)
@given(pairs=_pairs)
def test_json_and_jsonl_of_either_form_give_the_same_pairs(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("json")
    plain = [{"word": word, "sentence": sentence, "note": 1} for word, sentence in pairs]
    seeds = [{"input": f"Generate a B1-level sentence with {word}", "output": sentence} for word, sentence in pairs]
    for records in (plain, seeds):
        (folder / "pairs.json").write_text(json.dumps(records), encoding="utf-8")
        (folder / "pairs.jsonl").write_text("\n\n".join(json.dumps(r) for r in records), encoding="utf-8")
        for name in ("pairs.json", "pairs.jsonl"):
            assert holds_pairs(folder / name)
            assert read_pairs(str(folder / name), Level.A1) == _expected(pairs)


def test_columns_may_stand_in_any_order_and_case_beside_others(tmp_path: Path) -> None:
    file = tmp_path / "pairs.CSV"
    file.write_text('Level;"Sentence"; WORD\nB1;"Look; a cat, \na big one.";cat\n\n;;\n')
    assert read_pairs(str(file), Level.B1) == [Pair("cat", "Look; a cat, a big one.")]


BAD_PAIRS = [
    (
        "an unquoted comma",
        "p.csv",
        "word,sentence\ncat,Well, a cat.\n",
        "line 2: 3 fields instead of 2: a sentence with ','",
    ),
    ("no header", "p.csv", "cat,A cat.\n", "the first line must be the header word,sentence (it is 'cat,A cat.')"),
    ("an empty sentence", "p.csv", "word,sentence\ncat, \n", "line 2: the sentence is empty"),
    ("an empty word", "p.csv", "word,sentence\n,A cat.\n", "line 2: the word is empty"),
    ("a short row", "p.csv", "word,sentence\ncat\n", "line 2: sentence missing"),
    ("an open quote", "p.csv", 'word,sentence\ncat,"A cat.\n', "is not valid CSV: line 2: unexpected end of data"),
    ("NUL", "p.csv", "word,sentence\ncat,A\0cat.\n", "line 2: "),
    ("only a header", "p.csv", "word,sentence\n", "has no sentence pairs"),
    ("an empty file", "p.csv", "", "is empty"),
    (
        "bad JSON in a line",
        "p.jsonl",
        '{"word": "a", "sentence": "A."}\n{"word"\n',
        "is not valid JSON: line 2, column 8",
    ),
    ("a line that is no object", "p.jsonl", "[1]\n", "line 1: must be an object with word and sentence"),
    ("a key missing", "p.json", '[{"word": "cat"}]', "index 0 (from 0): sentence missing"),
    ("a number", "p.json", '[{"word": "cat", "sentence": 1}]', "index 0 (from 0): word and sentence must both be text"),
    (
        "another input",
        "p.json",
        '[{"input": "cat", "output": "A cat."}]',
        "index 0 (from 0): input 'cat' must look like",
    ),
    ("no list", "p.json", '{"word": "cat"}', "must be a JSON list of pairs"),
    (
        "examples",
        "p.json",
        '[{"instruction": "a", "output": "b"}]',
        "holds examples in list format; give it as data.train",
    ),
    ("another kind of file", "p.xlsx", "x", "unknown kind of file; sentence pairs are .csv, .jsonl or .json"),
]


@pytest.mark.parametrize(("name", "text", "reason"), [bad[1:] for bad in BAD_PAIRS], ids=[bad[0] for bad in BAD_PAIRS])
def test_bad_pairs_are_named_by_place_and_reason(tmp_path: Path, name: str, text: str, reason: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        read_pairs(str(file), Level.A1)
    assert len(caught.value.problems) == 1
    assert str(caught.value).startswith(f"{file}: {reason}")


def test_repeated_pairs_and_lost_words_are_only_warnings(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("word,sentence\ncat,A cat.\ncat,A cat.\ndog,A horse.\n")
    pairs, findings = check_pairs(file)
    assert (len(pairs), findings.errors) == (3, [])
    assert [str(warning) for warning in findings.warnings] == [
        f"{file}: line 3: the same word and sentence as line 2",
        f"{file}: line 4: 'dog' is not in its sentence: 'A horse.'",
    ]


@pytest.mark.parametrize("level", list(Level))
def test_the_starter_corpus_has_40_words_with_3_sentences_that_use_them(level: Level) -> None:
    pairs, findings = check_pairs(starter_file(level))
    assert (findings.errors, findings.warnings) == ([], [])
    assert read_pairs("starter", level) == pairs
    words = [pair.word for pair in pairs]
    assert len(set(words)) >= 40
    assert {words.count(word) for word in words} == {3}
    assert len({pair.sentence for pair in pairs}) == len(pairs)


def test_the_published_pairs_are_read() -> None:
    pairs = read_pairs(str(published("training_data_b1.json")), Level.B1)
    assert len(pairs) == 4045
    assert len({pair.word for pair in pairs}) == 806
    assert pairs[0] == Pair("absolutely", "I absolutely love going to the beach in the summer.")
