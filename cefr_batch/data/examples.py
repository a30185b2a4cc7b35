"""Training examples in list format: ``[{"instruction", "input", "output"}, …]``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cefr_batch.data.inflection import has_gap, uses_word
from cefr_batch.data.io import DataFile, kind, read_examples_file, unusable_character
from cefr_batch.data.pairs import CONVERSATIONS, Pair, record_kind

# A line such as "3. A sentence." or "3) A sentence."
_NUMBERED_LINE = re.compile(r"^[^\S\n]*(\d{1,9})[.)](?!\S)(.*)$", re.MULTILINE)
Line = tuple[int, str]  # a numbered line: its number and its text
_KEYS = ("instruction", "input", "output")
_GAP = "a sentence has a gap where its word should be; write the word there"
_LOST = "a word is not in its sentence"


@dataclass(frozen=True, slots=True)
class Example:
    """What to do, what with (mostly empty), and the expected answer."""

    instruction: str
    input: str
    output: str


def list_format(examples: Iterable[Example]) -> bytes:
    """The bytes that stand for these examples. Datasets are named by their hash: this form never changes."""
    items = [{"instruction": e.instruction, "input": e.input, "output": e.output} for e in examples]
    return (json.dumps(items, indent=2, ensure_ascii=False) + "\n").encode()


def from_list_format(data: bytes) -> tuple[Example, ...]:
    """The examples that ``list_format`` wrote. Raises ``ValueError`` for anything else."""
    try:
        return tuple(Example(**{key: str(item[key]) for key in _KEYS}) for item in json.loads(data))
    except (TypeError, KeyError) as exc:
        raise ValueError("these bytes are not examples in list format") from exc


def sha256_of(data: bytes) -> str:
    """The hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def words_in(example: Example) -> list[str]:
    """The words that the instruction lists, as written; none in a free-form instruction."""
    return [text for _, text in numbered_lines(example.instruction)]


def sentences_in(example: Example) -> list[str]:
    """The output's numbered lines without their numbers; an output without any counts as one sentence."""
    return [text for _, text in numbered_lines(example.output)] or [example.output.strip()]


def sentence_spans(example: Example) -> list[tuple[int, int]]:
    """Where each of ``sentences_in`` stands in the output: its first character, and the one after its last."""
    output = example.output
    lines = [match.span(2) for match in _NUMBERED_LINE.finditer(output)] or [(0, len(output))]
    return [_stripped(output, start, end) for start, end in lines]


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """This part of a text without the white space at its ends."""
    last = start + len(text[start:end].rstrip())
    return last - len(text[start:last].lstrip()), last


def pairs_in(example: Example) -> list[Pair]:
    """Each listed word with the sentence of its number; none of an example in which they do not correspond."""
    words, sentences = words_in(example), sentences_in(example)
    found = zip(words, sentences, strict=True) if len(words) == len(sentences) else ()
    return [Pair(" ".join(word.split()), " ".join(sentence.split())) for word, sentence in found if word and sentence]


def numbered_lines(text: str) -> list[Line]:
    """The number and the text of each line such as ``3. A sentence.`` or ``3) A sentence.``, in their order."""
    return [(int(number), line.strip()) for number, line in _NUMBERED_LINE.findall(text)]


def read_examples(path: Path) -> tuple[Example, ...]:
    """The examples of a list-format file. Raises ``DataError`` with what is wrong with it."""
    file = read_examples_file(path)
    examples = parse_examples(file, warn=False)
    file.diagnostics.raise_errors()
    return tuple(examples)


def parse_examples(file: DataFile, *, warn: bool = True) -> list[Example]:
    """A file's examples of the right shape, each once; what is wrong goes to its diagnostics. ``warn=False`` is faster."""
    return list(numbered_examples(file, warn=warn))


def numbered_examples(file: DataFile, *, warn: bool = True) -> dict[Example, int]:
    """As ``parse_examples``, each with the number of the first record that has it."""
    wrong_file = _wrong_file(file)
    if wrong_file:
        file.error(wrong_file)
        return {}
    first_number: dict[Example, int] = {}
    for number, item in file.records:
        wrong = _shape_problems(item)
        if not wrong:
            example = Example(item["instruction"], item.get("input", ""), item["output"])
            first = first_number.setdefault(example, number)
            if first != number:
                file.warning("repeats an earlier example, which is used once", number, file.place(first))
                continue
            words, sentences = numbered_lines(example.instruction), numbered_lines(example.output)
            wrong = _content_problems(example, words, sentences)
            for what, detail in _lost_words(words, sentences) if warn else []:
                file.warning(what, number, detail)
        for what in wrong:
            file.error(what, number)
    return first_number


def _wrong_file(file: DataFile) -> str | None:
    """Why a file that could be read does not hold examples."""
    if not file.records:
        return None if file.failed else "has no examples: the list is empty"
    kind_of_file = record_kind(file.first)
    if kind_of_file == "sentence pairs":
        return "holds sentence pairs; give it as data.source, or run `cefr-batch data build`"
    return CONVERSATIONS if kind_of_file == "conversations" else None


def _shape_problems(item: Any) -> list[str]:
    if not isinstance(item, dict):
        return [f"must be an object with instruction, input and output, but is {kind(item)}"]
    wrong = [f"{key} is missing" for key in ("instruction", "output") if key not in item]
    wrong += [f"unknown key {key!r}; valid keys: {', '.join(_KEYS)}" for key in item if key not in _KEYS]
    for key in _KEYS:
        value = item.get(key, "-")
        if not isinstance(value, str):
            wrong.append(f"{key} must be text, but is {kind(value)}")
        elif key != "input" and not value.strip():
            wrong.append(f"{key} is empty")
    return wrong


def _content_problems(example: Example, words: list[Line], sentences: list[Line]) -> list[str]:
    """What is wrong with an example whose shape is right."""
    character = unusable_character((example.instruction, example.input, example.output))
    wrong = [f"has the control or broken character {character}; remove it"] if character else []
    return wrong + (_list_problems(words, sentences, example.output) if words and sentences else [])


def _list_problems(words: list[Line], sentences: list[Line], output: str) -> list[str]:
    """What is wrong with a numbered answer to an instruction that lists numbered words."""
    if len(sentences) <= output.count("\n"):  # not every line is one
        loose = [line.strip() for line in output.split("\n") if line.strip() and not numbered_lines(line)]
        if loose:
            return [f'line {_excerpt(loose[0])} of the output has no number; lines must look like "1. A sentence."']
    wrong = [f"word {position} is empty" for position, (_, word) in enumerate(words, 1) if not word]
    wrong += [f"sentence {position} is empty" for position, (_, text) in enumerate(sentences, 1) if not text]
    if len(words) != len(sentences):
        wrong.append(f"{len(words)} words in the instruction, but {len(sentences)} sentences in the output")
    return wrong + _order_problems("words", words) + _order_problems("sentences", sentences)


def _order_problems(what: str, lines: list[Line]) -> list[str]:
    misplaced = ((number, expected) for expected, (number, _) in enumerate(lines, 1) if number != expected)
    return [
        f"the {what} are not numbered 1 to {len(lines)} in order: {number} stands where {expected} belongs"
        for number, expected in islice(misplaced, 1)
    ]


def _lost_words(words: list[Line], sentences: list[Line]) -> list[tuple[str, str]]:
    """What is wrong where a sentence seems to lack its listed word, and where that is."""
    if len(words) != len(sentences):
        return []
    return [
        (_GAP if has_gap(sentence) else _LOST, f"word {position}, {word!r}, in {_excerpt(sentence)}")
        for position, ((_, word), (_, sentence)) in enumerate(zip(words, sentences, strict=True), 1)
        if word and sentence and not uses_word(sentence, word)
    ]


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
