"""Sentence pairs from CSV, JSON and JSONL files, and the starter corpus."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections import Counter
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.published import published

from cefr_batch.config.schema import STARTERS, Level
from cefr_batch.data.checks import check_file
from cefr_batch.data.io import TableLayout, normalized_text
from cefr_batch.data.pairs import Pair, read_pairs, starter_file
from cefr_batch.errors import DataError

_text = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufffd"), min_size=1, max_size=30
).filter(lambda text: normalized_text(text).strip() != "")
_pairs = st.lists(st.tuples(_text, _text), min_size=1, max_size=8)


def _expected(pairs: list[tuple[str, str]]) -> list[Pair]:
    return [Pair(*(" ".join(normalized_text(text).split()) for text in pair)) for pair in pairs]


def _csv(pairs: list[tuple[str, str]], delimiter: str, newline: str, quoting: int) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=newline, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([("word", "sentence"), *pairs])
    return out.getvalue()


@hypothesis.settings(deadline=None)
@given(
    pairs=_pairs,
    delimiter=st.sampled_from(",;\t"),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    declared=st.booleans(),
)
def test_csv_gives_back_what_a_spreadsheet_wrote(
    tmp_path_factory: pytest.TempPathFactory,
    pairs: list[tuple[str, str]],
    delimiter: str,
    newline: str,
    quoting: int,
    encoding: str,
    declared: bool,
) -> None:
    file = tmp_path_factory.mktemp("csv") / "pairs.csv"
    separator = f"sep={delimiter}{newline}" if declared else ""
    file.write_bytes((separator + _csv(pairs, delimiter, newline, quoting)).encode(encoding))
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
            assert check_file(folder / name).kind == "sentence pairs"
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
        "line 2: 3 fields instead of 2: a cell with ','",
    ),
    ("no header", "p.csv", "cat,A cat.\n", "the first line must be 'word,sentence', but is 'cat,A cat.'"),
    (
        "a column twice",
        "p.csv",
        "word,sentence,sentence\ncat,A cat.,B\n",
        "the header has the column sentence more than once; keep one of them",
    ),
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
    ("no list", "p.json", '{"word": "cat"}', "must be a JSON list of examples or sentence pairs, but is an object"),
    (
        "examples",
        "p.json",
        '[{"instruction": "a", "output": "b"}]',
        "holds examples in list format; give it as data.train",
    ),
    ("another kind of file", "p.docx", "x", "unknown kind of file; give a .json, .jsonl, .csv or .xlsx file"),
]


@pytest.mark.parametrize(("name", "text", "reason"), [bad[1:] for bad in BAD_PAIRS], ids=[bad[0] for bad in BAD_PAIRS])
def test_bad_pairs_are_named_by_place_and_reason(tmp_path: Path, name: str, text: str, reason: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        read_pairs(str(file), Level.A1)
    assert len(caught.value.problems) == 1
    assert str(caught.value).startswith(f"{file}: {reason}")


def test_a_capital_letter_that_a_spreadsheet_made_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    rows = [
        "Dictionary,Look it up in a dictionary.",
        "Monday,On Monday we rest.",
        "bus,The bus is late.",
        "Bus,Bus tickets are cheap.",
    ]
    file.write_text("\n".join(["word,sentence", *rows]))
    (warning,) = check_file(file).diagnostics.warnings
    what = "the word has a capital letter, but not in its sentence; it is used as it is"
    assert str(warning) == f"{file}: line 2: {what} ('Dictionary')"


def test_repeated_pairs_and_lost_words_are_only_warnings(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("word,sentence\ncat,A cat.\ncat,A cat.\ndog,A horse.\n")
    found = check_file(file)
    assert (found.good, found.diagnostics.errors) == (3, [])
    assert [str(warning) for warning in found.diagnostics.warnings] == [
        f"{file}: line 3: repeats an earlier pair, which is used once (line 2)",
        f"{file}: line 4: the word is not in its sentence; the pair is used as it is ('dog' in 'A horse.')",
    ]


@pytest.mark.parametrize(
    ("sentence", "is_gap"),
    [
        ("I ____ to school.", True),
        ("I ... to school.", True),
        ("… to school!", True),
        ("I ........ to school.", True),
        ("I (   ) to school.", True),
        ("I walk to school...", False),
        ("I walk… to school.", False),
        ("I walk (every day) - to school.", False),
    ],
)
def test_a_gap_for_the_word_is_named_as_one(sentence: str, is_gap: bool, tmp_path: Path) -> None:
    pairs, examples = tmp_path / "pairs.csv", tmp_path / "examples.json"
    pairs.write_text(f"word,sentence\ngo,{sentence}\n")
    examples.write_text(json.dumps([{"instruction": "W:\n1. go", "output": f"1. {sentence}"}]))
    for file in (pairs, examples):
        (warning,) = check_file(file).diagnostics.warnings
        assert ("has a gap where its word should be; write the word there" in str(warning)) is is_gap
        assert ("is not in its sentence" in str(warning)) is not is_gap


def test_a_table_in_windows_1254_is_read_with_a_warning_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    text = "word;sentence\r\ncafé;We met in Şişli’s café.\r\n"
    file.write_bytes(text.encode("cp1254"))
    assert read_pairs(str(file), Level.A1) == [Pair("café", "We met in Şişli’s café.")]
    (warning,) = check_file(file).diagnostics.warnings
    assert "is not UTF-8: byte 0xe9 at offset 18 (line 2); it was read as Windows-1254" in str(warning)
    file.write_bytes(text.encode() + b"a;\xff a\n")
    with pytest.raises(DataError, match=r"is not UTF-8: byte 0xff at offset \d+ \(line 3\); save it again as UTF-8"):
        read_pairs(str(file), Level.A1)


def test_sentences_that_only_look_the_same_are_the_same(tmp_path: Path) -> None:
    """Else one of them could be trained on and the other evaluated."""
    file = tmp_path / "pairs.csv"
    odd = ["cafe\u0301,The cafe\u0301 is open.", "café,The\u200b café is open.", "café,The \ufeffcafé is open."]
    file.write_text("\n".join(["word,sentence", "café,The café is open.", *odd]), encoding="utf-8")
    assert read_pairs(str(file), Level.A1) == [Pair("café", "The café is open.")] * 4
    normalized, repeated = map(str, check_file(file).diagnostics.warnings)
    assert normalized.startswith(
        f"{file}: has invisible or decomposed characters or Windows line ends, which were norm"
    )
    assert normalized.endswith("; 3 times, at line 3, 4, 5")
    assert "repeats an earlier pair, which is used once; 3 times" in repeated


@pytest.mark.parametrize("name", ["pairs.txt", "pairs.docx"])
def test_a_check_says_of_another_kind_of_file_that_it_is_one_and_nothing_else(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("word,sentence\ncat,A cat.\n")
    diagnostics = check_file(tmp_path / name).diagnostics
    assert [str(error) for error in diagnostics.errors] == [
        f"{tmp_path / name}: unknown kind of file; give a .json, .jsonl, .csv or .xlsx file"
    ]
    assert diagnostics.warnings == []


@pytest.mark.parametrize(
    ("name", "encoding", "reason"),
    [
        (
            "p.jsonl",
            "cp1254",
            r"byte 0xe9 .* it seems to be Windows-1254; save .* iconv -f WINDOWS-1254 -t UTF-8 OLD > NEW",
        ),
        ("p.csv", "utf-16-le", r"is UTF-16LE without a byte order mark; save it again as UTF-8 .* iconv -f UTF-16LE"),
        ("p.csv", "utf-16-be", r"is UTF-16BE without a byte order mark; save it again as UTF-8 .* iconv -f UTF-16BE"),
    ],
)
def test_an_encoding_is_named_as_what_it_is_with_the_way_out(
    name: str, encoding: str, reason: str, tmp_path: Path
) -> None:
    text = {
        "p.jsonl": '{"word": "café", "sentence": "We met in Şişli’s café."}',
        "p.csv": "word,sentence\ncat,A cat.\n",
    }
    (tmp_path / name).write_bytes(text[name].encode(encoding))
    with pytest.raises(DataError, match=reason):
        read_pairs(str(tmp_path / name), Level.A1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "Cümle;KELİME;word\nA cat.;cat;x\n"),
        ("p.tsv", "Kelime yok\tkeli\u0307me\tcümle\nx\tcat\tA cat.\n"),
        ("p.jsonl", '{"Kelime": 1, "KELİME": "cat", "Cümle": "A cat.", "word": "x"}'),
        ("p.json", '[{"KELİME": "cat", "Cümle": "A cat.", "sentence": "x"}]'),
    ],
)
def test_columns_may_have_other_names_in_every_kind_of_file(name: str, text: str, tmp_path: Path) -> None:
    """In any case, composed or not; a column that we would call so stands for nothing then."""
    (tmp_path / name).write_text(text)
    layout = TableLayout.parse("word=KELİME, sentence=Cümle", None)
    assert read_pairs(str(tmp_path / name), Level.A1, layout) == [Pair("cat", "A cat.")]
    with pytest.raises(DataError):
        read_pairs(str(tmp_path / name), Level.A1)
    with pytest.raises(DataError, match="has no sheets, so there is none called 'x'"):
        read_pairs(str(tmp_path / name), Level.A1, TableLayout(sheet="x"))


def test_sentences_that_are_numbered_already_are_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text(
        "word,sentence\n" + "".join(f"cat,{n}. A cat {n}.\n" for n in range(1, 5)) + "ten,10 or 3.5 is ten.\n"
    )
    (warning,) = check_file(file).diagnostics.warnings
    assert str(warning) == (
        f"{file}: the sentence begins with a number, but examples number it anyway; remove it; "
        "4 times, at line 2 ('1. A cat 1.'), 3 ('2. A cat 2.'), 4 ('3. A cat 3.'), 5 ('4. A cat 4.')"
    )


@pytest.mark.parametrize("source", STARTERS)
@pytest.mark.parametrize("level", list(Level))
def test_the_starter_corpus_has_60_words_with_3_sentences_that_use_them(level: Level, source: str) -> None:
    diagnostics = check_file(starter_file(level, source)).diagnostics
    assert (diagnostics.errors, diagnostics.warnings) == ([], [])
    pairs = read_pairs(source, level)
    words = [pair.word for pair in pairs]
    assert len(set(words)) == 60
    assert {words.count(word) for word in words} == {3}
    assert words == sorted(words)
    assert all(pair.sentence.isascii() and pair.sentence[-1] in ".?!" for pair in pairs)


def test_no_sentence_of_the_starter_corpus_nearly_repeats_another() -> None:
    """No two have more than three quarters of their words in common, in all levels together."""
    sentences = [pair.sentence for level in Level for pair in read_pairs("starter", level)]
    words = [frozenset(re.findall(r"[a-z']+", sentence.lower())) for sentence in sentences]
    close = [
        (sentences[i], sentences[j])
        for i, j in itertools.combinations(range(len(words)), 2)
        if len(words[i] & words[j]) > 0.75 * len(words[i] | words[j])
    ]
    assert close == []


@pytest.mark.parametrize("level", list(Level))
def test_the_starter_corpus_opens_its_sentences_in_many_ways(level: Level) -> None:
    """No two words begin more than one sentence in ten, and those that begin only one are more than half."""
    openings = Counter(" ".join(pair.sentence.split()[:2]) for pair in read_pairs("starter", level))
    assert max(openings.values()) <= 18
    assert sum(times == 1 for times in openings.values()) > 90


def test_the_published_pairs_are_read() -> None:
    pairs = read_pairs(str(published("training_data_b1.json")), Level.B1)
    assert len(pairs) == 4045
    assert len({pair.word for pair in pairs}) == 806
    assert pairs[0] == Pair("absolutely", "I absolutely love going to the beach in the summer.")
