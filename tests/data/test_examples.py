"""List-format files: the prompt, and every kind of bad data named by file, index and reason."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from published import published

from cefr_batch.data import Example, examples, prompt_of, reading, text_of
from cefr_batch.data.examples import (
    check_examples,
    list_format,
    numbered_lines,
    read_examples,
    regular_lists,
    sentences_in,
    words_in,
)
from cefr_batch.data.inflection import uses_stems, uses_word
from cefr_batch.data.reading import json_items, unusable_character
from cefr_batch.errors import DataError
from cefr_batch.store import to_json

GOOD = {
    "instruction": "Generate A1-level English sentences for these 2 words:\n1. cat\n2. dog\n\nNumber them.",
    "input": "",
    "output": "1. My cat sleeps.\n2. The dog is big.",
}


def changed(**fields: Any) -> dict[str, Any]:
    return {**GOOD, **fields}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


BAD_EXAMPLES = [
    ("not an object", ["cat"], "must be an object with instruction, input and output, but is a list"),
    ("null", None, "must be an object with instruction, input and output, but is null"),
    ("no instruction", without("instruction"), "instruction is missing"),
    ("no output", without("output"), "output is missing"),
    ("an unknown key", changed(ouput="x"), "unknown key 'ouput'; valid keys: instruction, input, output"),
    ("a number as output", changed(output=3), "output must be text, but is a number"),
    ("a list as instruction", changed(instruction=["a"]), "instruction must be text, but is a list"),
    ("null as input", changed(input=None), "input must be text, but is null"),
    ("an empty instruction", changed(instruction=" \n"), "instruction is empty"),
    ("an empty output", changed(output=""), "output is empty"),
    (
        "a sentence too few",
        changed(output="1. My cat sleeps."),
        "2 words in the instruction, but 1 sentences in the output",
    ),
    (
        "a sentence too many",
        changed(output="1. A cat.\n2. A dog.\n3. More."),
        "2 words in the instruction, but 3 sentences in the output",
    ),
    (
        "sentences out of order",
        changed(output="2. The dog is big.\n1. My cat sleeps."),
        "the sentences are not numbered 1 to 2 in order: 2 stands where 1 belongs",
    ),
    (
        "a number twice",
        changed(output="1. My cat sleeps.\n1. The dog is big."),
        "the sentences are not numbered 1 to 2 in order: 1 stands where 2 belongs",
    ),
    (
        "words out of order",
        changed(instruction="Sentences for:\n1. cat\n3. dog"),
        "the words are not numbered 1 to 2 in order: 3 stands where 2 belongs",
    ),
    ("an empty sentence", changed(output="1. My cat sleeps.\n2."), "sentence 2 is empty"),
    ("an empty word", changed(instruction="Sentences for:\n1. cat\n2. "), "word 2 is empty"),
    (
        "a line without a number",
        changed(output="Here you are:\n1. My cat sleeps.\n2. The dog is big."),
        "line 'Here you are:' of the output has no number; lines must look like \"1. A sentence.\"",
    ),
    ("NUL", changed(output="1. My cat\0sleeps.\n2. The dog."), "has the control or broken character U+0000; remove it"),
    ("an escape code", changed(input="\x1b[1m"), "has the control or broken character U+001B; remove it"),
    ("half a surrogate pair", changed(input="\ud83d"), "has the control or broken character U+D83D; remove it"),
    ("a replacement character", changed(input="caf\ufffd"), "has the control or broken character U+FFFD; remove it"),
    ("a duplicate", dict(GOOD), "the same example as index 0"),
]


@pytest.mark.parametrize(("item", "reason"), [bad[1:] for bad in BAD_EXAMPLES], ids=[bad[0] for bad in BAD_EXAMPLES])
def test_a_bad_example_is_named_by_file_index_and_reason(tmp_path: Path, item: Any, reason: str) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps([GOOD, item]))
    _, findings = check_examples(file)
    assert [str(problem) for problem in findings.errors] == [f"{file}: index 1 (from 0): {reason}"]
    with pytest.raises(DataError, match=r"index 1 \(from 0\)"):
        read_examples(file)


BAD_FILES = [
    ("not JSON", b'[\n{"instruction": "a",}\n]', "is not valid JSON: line 2, column"),
    ("cut off", b'[{"instruction": "a", "in', "is not valid JSON: line 1, column"),
    ("an object", b"{}", "must be a JSON list of examples, but is an object"),
    ("an empty list", b"[]", "has no examples: the list is empty"),
    ("empty", b"", "is empty"),
    ("blank", b"\xef\xbb\xbf \n", "is empty"),
    ("Latin-1", '[{"instruction": "a"},\n"café"]'.encode("latin-1"), "is not UTF-8: byte 0xe9 at offset 27 (line 2)"),
    ("UTF-16", json.dumps([GOOD]).encode("utf-16"), "is UTF-16, not UTF-8"),
    ("nested without end", b"[" * 100_000, "is not valid JSON"),
    ("a number without end", b"[" + b"1" * 10_000 + b"]", "is not valid JSON"),
    ("JSON lines", b'{"instruction": "a"}\n{"instruction": "b"}', "is not valid JSON: line 2, column 1: Extra data"),
    ("pairs", b'[{"input": "Generate a B1-level sentence with cat", "output": "A cat."}]', "holds sentence pairs"),
]


@pytest.mark.parametrize(("data", "reason"), [bad[1:] for bad in BAD_FILES], ids=[bad[0] for bad in BAD_FILES])
def test_a_file_that_is_no_list_of_examples_gives_one_sentence(tmp_path: Path, data: bytes, reason: str) -> None:
    file = tmp_path / "train.json"
    file.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_examples(file)
    assert len(caught.value.problems) == 1
    assert str(caught.value).startswith(f"{file}: {reason}")


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".jsonl"])
def test_a_file_of_pairs_given_as_examples_is_told_apart_by_its_name(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"train{suffix}"
    file.write_text("word,sentence\ncat,A cat.\n")
    with pytest.raises(
        DataError, match=f"{suffix} files hold sentence pairs; examples in list format are a .json file"
    ):
        read_examples(file)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.json", "no such file"), (tmp_path, "is a folder; give a file")):
        with pytest.raises(DataError) as caught:
            read_examples(path)
        assert str(caught.value) == f"{path}: {reason}"


def test_all_problems_are_kept_but_only_the_first_are_shown(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps([changed(output="")] * 30))
    with pytest.raises(DataError) as caught:
        read_examples(file)
    assert len(caught.value.problems) == 30
    lines = str(caught.value).splitlines()
    assert lines[0] == "30 problems in the training data:"
    assert lines[-1] == "  - and 10 more"
    assert len(lines) == 22


def test_free_form_examples_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    """Only instructions that list numbered words are held to numbered answers; input may be left out."""
    file = tmp_path / "free.json"
    free = {"instruction": "Explain the word cat.", "output": "An animal.\nIt says miaow."}
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps([free]).encode())
    assert read_examples(file) == (Example("Explain the word cat.", "", "An animal.\nIt says miaow."),)


@pytest.mark.parametrize("word", ["cat", "cats", "go", "study", "stop", "old-fashioned", "look after", "IT", "be"])
def test_inflected_words_give_no_warning_and_lost_words_do(tmp_path: Path, word: str) -> None:
    text = "My cats are going; he studies, it stopped, looks after an old-fashioned thing."
    for output, warnings in ((text, 0), ("Nothing here.", 1)):
        file = tmp_path / "train.json"
        file.write_text(json.dumps([{"instruction": f"One sentence:\n1. {word}", "output": f"1. {output}"}]))
        _, findings = check_examples(file)
        assert not findings.errors
        assert len(findings.warnings) == warnings, findings.warnings


def test_the_prompt_is_alpacas() -> None:
    plain = Example("Do it.", "", "Done.")
    assert prompt_of(plain) == "### Instruction:\nDo it.\n\n### Response:\n"
    assert text_of(plain, "<eos>") == "### Instruction:\nDo it.\n\n### Response:\nDone.<eos>"
    given = Example("Do it.", "With this.", "Done.")
    assert prompt_of(given) == "### Instruction:\nDo it.\n\n### Input:\nWith this.\n\n### Response:\n"


def test_list_format_is_to_json_byte_for_byte() -> None:
    examples = [Example('a\n"q" \\', "", "ü 🎉 \u2028 \x7f"), Example("b", "c", "d")]
    as_dicts = [{"instruction": e.instruction, "input": e.input, "output": e.output} for e in examples]
    assert list_format(examples) == to_json(as_dicts)


def test_numbers_are_stripped_from_words_and_sentences() -> None:
    example = Example("Words:\n1. look after\n2) IT\n", "", " 1. She looks after him.\r\n2) IT is 3.5 times fun. ")
    assert words_in(example) == ["look after", "IT"]
    assert sentences_in(example) == ["She looks after him.", "IT is 3.5 times fun."]
    assert sentences_in(Example("Say it", "", "3.5 is a number.\n")) == ["3.5 is a number."]


@pytest.mark.parametrize("level", ["a1", "a2", "b1"])
def test_the_published_files_pass_as_they_are(level: str) -> None:
    files = [published(f"training_data_{level}_list_format_{side}.json") for side in ("train", "eval")]
    for file, number in zip(files, (1800, 200), strict=True):
        examples, findings = check_examples(file)
        assert (len(examples), findings.errors) == (number, [])
        assert len(findings.warnings) < 0.02 * number
        assert list_format(examples) == file.read_bytes() + b"\n"


@given(st.text(st.sampled_from("12. )\n\t\r\x0b\x1c\x85ab\u2028\u00a0٣"), max_size=20))
def test_numbered_lines_are_found_as_line_by_line(text: str) -> None:
    plain = re.compile(r"(\d{1,9})[.)](?:\s+(.*))?$")
    lines = (plain.match(line.strip()) for line in text.split("\n"))
    assert numbered_lines(text) == [(int(line[1]), line[2] or "") for line in lines if line]


def test_a_list_is_read_in_pieces_as_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the pieces end; and a wrong item, after any number of good ones, is told as by the whole file's parser."""
    items = [{"a": "ä ] , ["}, 12, [], "x\n", None, {"b": [1.5, True]}]
    file = tmp_path / "list.json"
    for length in range(1, 30):
        monkeypatch.setattr(reading, "_PIECE", length)
        for indent in (None, 2):
            text = json.dumps(items, indent=indent)
            file.write_text(f"\ufeff {text} \n", encoding="utf-8")
            assert list(json_items(file)) == items
            file.write_text(f"{text[:-2]},, 1]", encoding="utf-8")
            with pytest.raises(DataError, match="is not valid JSON: line"):
                list(json_items(file))
            file.write_text(f"{text} 1", encoding="utf-8")
            with pytest.raises(DataError, match="Extra data"):
                list(json_items(file))


_other = st.sampled_from(["Words:", "é", "b 1.", "b\u2028c", "1. a", ""])
_line = st.sampled_from(["a", "a b", "é.", "1. a", "2)", "a\u2028b", "a \xa0 b", "..", "", " a", "a\xa0", "a\n"])


def _numbered(lines: Iterable[str]) -> str:
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))


@hypothesis.settings(max_examples=400)
@given(
    before=_other,
    after=_other,
    lists=st.lists(st.tuples(_line, _line), min_size=1, max_size=3),
    more=st.sampled_from([[], [], ["a"]]),
    end=st.sampled_from(["", ".", " b", "\n"]),
)
def test_regular_lists_are_those_that_are_read_line_by_line(
    before: str, after: str, lists: list[tuple[str, str]], more: list[str], end: str
) -> None:
    """And then nothing is wrong with them: the check need not look."""
    words, sentences = _numbered(word for word, _ in lists), _numbered([*(text for _, text in lists), *more])
    example = Example(f"{before}\n{words}\n\n{after}", "", sentences + end)
    regular = regular_lists(example)
    if regular:
        assert [list(one) for one in regular] == [words_in(example), sentences_in(example)]
        assert examples._list_problems(numbered_lines(example.instruction), example.output) == []


def test_the_lists_of_published_examples_are_regular() -> None:
    for example in read_examples(published("training_data_b1_list_format_eval.json")):
        assert regular_lists(example) == (tuple(words_in(example)), tuple(sentences_in(example)))


@given(
    word=st.text(st.characters(codec="ascii") | st.sampled_from("Iİıßé "), max_size=6),
    around=st.tuples(st.text(max_size=4), st.text(st.characters(categories=["L", "M", "N", "Zs"]), max_size=3)),
)
def test_a_word_that_stands_after_a_blank_is_in_the_sentence(word: str, around: tuple[str, str]) -> None:
    sentence = f"{around[0]} {word}{around[1]}"
    assert uses_word(sentence, word) == uses_stems(sentence, word)


def test_every_character_is_usable_or_not_as_the_expression_says() -> None:
    for code in range(sys.maxunicode + 1):
        bad = reading._UNUSABLE.search(chr(code))
        assert unusable_character(("fine", chr(code))) == (f"U+{code:04X}" if bad else None)


def test_the_check_finds_the_same_without_its_quick_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = json.loads(published("training_data_b1_list_format_eval.json").read_text(encoding="utf-8"))[:100]
    lost = [{**item, "output": item["output"].replace(" ", "  é x")} for item in good[:20]]
    file = tmp_path / "train.json"
    file.write_text(json.dumps([*good, *(bad[1] for bad in BAD_EXAMPLES), *lost, *good[:10]]))
    quick = check_examples(file)
    monkeypatch.setattr(examples, "regular_lists", lambda _: None)
    monkeypatch.setattr(examples, "uses_word", uses_stems)
    monkeypatch.setattr(reading, "_SUSPECT", bytes(range(256)))
    assert check_examples(file) == quick
    assert len(quick[1].errors) > 10
    assert quick[1].warnings
