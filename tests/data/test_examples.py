"""List-format files: the prompt, and every kind of bad data named by file, index and reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.prompts import alpaca
from support.published import published

from cefr_batch.config.schema import Level
from cefr_batch.data import Example
from cefr_batch.data.checks import check_file
from cefr_batch.data.examples import list_format, numbered_lines, read_examples, sentence_spans, sentences_in, words_in
from cefr_batch.data.inflection import uses_word
from cefr_batch.data.pairs import read_pairs
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
]


@pytest.mark.parametrize(("item", "reason"), [bad[1:] for bad in BAD_EXAMPLES], ids=[bad[0] for bad in BAD_EXAMPLES])
def test_a_bad_example_is_named_by_file_index_and_reason(tmp_path: Path, item: Any, reason: str) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps([GOOD, item]))
    diagnostics = check_file(file).diagnostics
    assert [str(problem) for problem in diagnostics.errors] == [f"{file}: index 1 (from 0): {reason}"]
    with pytest.raises(DataError, match=r"index 1 \(from 0\)"):
        read_examples(file)


BAD_FILES = [
    ("not JSON", b'[\n{"instruction": "a",}\n]', "is not valid JSON: line 2, column"),
    ("cut off", b'[{"instruction": "a", "in', "is not valid JSON: line 1, column"),
    ("an object", b"{}", "must be a JSON list of examples or sentence pairs, but is an object"),
    ("an empty list", b"[]", "has no examples: the list is empty"),
    ("empty", b"", "is empty"),
    ("blank", b"\xef\xbb\xbf \n", "is empty"),
    ("Latin-1", '[{"instruction": "a"},\n"café"]'.encode("latin-1"), "is not UTF-8: byte 0xe9 at offset 27 (line 2)"),
    ("cut UTF-16", json.dumps([GOOD]).encode("utf-16")[:-1], "is not valid UTF-16"),
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
def test_a_file_of_pairs_given_as_examples_is_told_apart(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"train{suffix}"
    file.write_text('{"word": "cat", "sentence": "A cat."}' if suffix == ".jsonl" else "word,sentence\ncat,A cat.\n")
    with pytest.raises(DataError, match="holds sentence pairs; give it as"):
        read_examples(file)


@pytest.mark.parametrize("name", ["chat.json", "chat.jsonl"])
@pytest.mark.parametrize(
    "record", [{"messages": [{"role": "user", "content": "Hi"}]}, {"conversations": [{"from": "human", "value": "Hi"}]}]
)
def test_conversations_are_refused_once_whatever_they_are_given_as(tmp_path: Path, name: str, record: Any) -> None:
    file = tmp_path / name
    file.write_text(json.dumps([record] * 3) if name == "chat.json" else f"{json.dumps(record)}\n" * 3)
    for read in (read_examples, lambda path: read_pairs(str(path), Level.A1), check_and_raise):
        with pytest.raises(DataError, match=f"^{file}: holds conversations ") as caught:
            read(file)
        assert len(caught.value.problems) == 1


def check_and_raise(path: Path) -> None:
    check_file(path).diagnostics.raise_errors()


def test_examples_may_stand_on_a_line_each(tmp_path: Path) -> None:
    lines, one_list = tmp_path / "e.jsonl", tmp_path / "e.json"
    items = [GOOD, {"instruction": "Say hi", "output": "Hi"}]
    lines.write_text("\n".join(json.dumps(item) for item in items))
    one_list.write_text(json.dumps(items))
    assert read_examples(lines) == read_examples(one_list)
    assert check_file(lines).kind == "examples"
    with pytest.raises(DataError, match="holds examples in list format"):
        read_pairs(str(lines), Level.A1)


def test_a_repeated_example_is_used_once_with_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "e.json"
    file.write_text(json.dumps([GOOD, {"instruction": "Say hi", "output": "Hi"}, GOOD]))
    assert len(read_examples(file)) == 2
    diagnostics = check_file(file).diagnostics
    assert diagnostics.errors == []
    assert [str(warning) for warning in diagnostics.warnings] == [
        f"{file}: index 2 (from 0): repeats an earlier example, which is used once (index 0 (from 0))"
    ]


def test_a_numbered_list_in_a_free_form_instruction_needs_no_numbered_answer(tmp_path: Path) -> None:
    file = tmp_path / "e.json"
    file.write_text(json.dumps([{"instruction": "Do this:\n1. Read.\n2. Answer.", "output": "He lives in Bursa."}]))
    assert read_examples(file)[0].output == "He lives in Bursa."


def test_texts_are_normalized_when_they_are_read_with_one_warning_that_counts(tmp_path: Path) -> None:
    file = tmp_path / "e.json"
    odd = "1. My\u200b \ufeffcafe\u0301 is open.\r\n2. The\u00ad dog \N{ADULT}\u200d\N{PERSONAL COMPUTER}."
    file.write_text(json.dumps([GOOD, *(changed(output=odd + " " * n) for n in range(5))]))
    normalized = "1. My café is open.\n2. The dog \N{ADULT}\u200d\N{PERSONAL COMPUTER}."
    assert read_examples(file)[1].output == normalized
    (warning, *_) = check_file(file).diagnostics.warnings
    what = "has invisible or decomposed characters or Windows line ends, which were normalized"
    assert str(warning) == f"{file}: {what}; 5 times, at index 1, 2, 3, 4, 5 (from 0)"


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.json", "no such file"), (tmp_path, "is a folder; give a file")):
        with pytest.raises(DataError) as caught:
            read_examples(path)
        assert str(caught.value) == f"{path}: {reason}"


def test_a_problem_of_many_examples_is_told_once_with_the_first_ten_places(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps([GOOD, *[changed(output="")] * 30]))
    with pytest.raises(DataError) as caught:
        read_examples(file)
    assert str(caught.value) == f"{file}: output is empty; 30 times, at index 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, … (from 0)"


@pytest.mark.parametrize("path", ["/dev/zero", "a\0b.json"])
def test_what_is_no_file_is_refused_without_being_read(path: str) -> None:
    with pytest.raises(DataError, match=r"is a device or a pipe|it contains an invisible character"):
        read_examples(Path(path))


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
        diagnostics = check_file(file).diagnostics
        assert not diagnostics.errors
        assert len(diagnostics.warnings) == warnings, diagnostics.warnings


def test_the_prompt_is_alpacas() -> None:
    plain = Example("Do it.", "", "Done.")
    assert alpaca().prompt(plain) == "### Instruction:\nDo it.\n\n### Response:\n"
    assert alpaca().text(plain) == "### Instruction:\nDo it.\n\n### Response:\nDone.<eos>"
    given = Example("Do it.", "With this.", "Done.")
    assert alpaca().prompt(given) == "### Instruction:\nDo it.\n\n### Input:\nWith this.\n\n### Response:\n"


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
        found = check_file(file)
        assert (found.good, found.diagnostics.errors) == (number, [])
        assert len(found.diagnostics.warnings) < 0.02 * number
        assert list_format(read_examples(file)) == file.read_bytes() + b"\n"


@given(st.text(st.sampled_from("12. )\n\t\r\x0b\x1c\x85ab\u2028\u00a0٣"), max_size=20))
def test_numbered_lines_are_found_as_line_by_line(text: str) -> None:
    plain = re.compile(r"(\d{1,9})[.)](?:\s+(.*))?$")
    lines = (plain.match(line.strip()) for line in text.split("\n"))
    assert numbered_lines(text) == [(int(line[1]), line[2] or "") for line in lines if line]


@given(st.text(st.sampled_from("12. )\n\t\r\x0b\x1c\x85ab\u2028\u00a0٣"), max_size=20))
def test_the_spans_of_sentences_are_where_the_sentences_stand(output: str) -> None:
    example = Example("", "", output)
    assert [output[start:end] for start, end in sentence_spans(example)] == sentences_in(example)


@given(
    word=st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=6),
    around=st.tuples(st.text(max_size=4), st.text(st.characters(categories=["L", "M", "N", "Zs"]), max_size=3)),
)
def test_a_word_that_stands_after_a_blank_is_in_the_sentence(word: str, around: tuple[str, str]) -> None:
    assert uses_word(f"{around[0]} {word}{around[1]}", word)


@pytest.mark.parametrize(("different", "warned"), [(18, True), (60, False)])
def test_a_file_that_repeats_few_sentences_is_told(tmp_path: Path, different: int, warned: bool) -> None:
    """200 examples of 10: 18 different sentences are too few, 60 are not; nor are few that are not repeated."""
    words = [f"word{number}" for number in range(different)]
    examples = []
    for start in range(200):
        chosen = [words[(start * 7 + at) % different] for at in range(10)]
        asked, written = (
            "\n".join(f"{i}. {text}" for i, text in enumerate(texts, 1))
            for texts in (chosen, [f"This is a sentence with {word}." for word in chosen])
        )
        examples.append({"instruction": f"Write sentences {start}:\n{asked}", "input": "", "output": written})
    file = tmp_path / "train.json"
    file.write_text(json.dumps(examples))
    found = [one.what for one in check_file(file).diagnostics.warnings if "different sentences" in one.what]
    assert [text.partition(" a model")[0] for text in found] == (
        [f"its examples repeat only {different} different sentences, 2,000 times in all:"] if warned else []
    )
    file.write_text(json.dumps(examples[:1]))
    assert not [one for one in check_file(file).diagnostics.warnings if "different sentences" in one.what]
