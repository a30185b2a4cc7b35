"""Training examples in list format: ``[{"instruction", "input", "output"}, …]``, and the Alpaca prompt made of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cefr_batch.data.inflection import uses_word
from cefr_batch.data.pairs import PAIRS_ONLY, Pair, is_pair
from cefr_batch.data.places import FirstPlaces
from cefr_batch.data.reading import Findings, at_index, file_error, json_items, kind, read_text, unusable_character
from cefr_batch.errors import DataError, Problem

_NUMBERED = re.compile(r"(\d{1,9})[.)](?:\s+(.*))?$")  # of a stripped line
# The same of each line of a text, blanks around it left out: faster than line by line.
_NUMBERED_LINES = re.compile(r"^[^\S\n]*(\d{1,9})[.)](?:[^\S\n]+(.*))?[^\S\n]*$", re.MULTILINE)
_KEYS = ("instruction", "input", "output")
_to_json = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class Example:
    """What to do, what with (mostly empty), and the expected answer."""

    instruction: str
    input: str
    output: str


def prompt_of(example: Example) -> str:
    """The Alpaca prompt up to and including ``### Response:`` and its newline."""
    given = f"### Input:\n{example.input}\n\n" if example.input.strip() else ""
    return f"### Instruction:\n{example.instruction}\n\n{given}### Response:\n"


def text_of(example: Example, eos: str) -> str:
    """What the model is trained on: the prompt, the output and the end-of-text token's text."""
    return f"{prompt_of(example)}{example.output}{eos}"


def list_format(examples: Iterable[Example]) -> bytes:
    """The bytes that stand for these examples, as ``to_json`` would write them but faster and in less memory.

    Datasets are named by their hash: this form never changes.
    """
    return "".join(list_format_parts(examples)).encode()


def list_format_parts(examples: Iterable[Example]) -> Iterator[str]:
    """The same as text, piece by piece, for a file that need not be whole in memory."""
    return list_format_joined(list_format_item(example) for example in examples)


def list_format_joined(items: Iterable[str]) -> Iterator[str]:
    """The list of these ``list_format_item``s."""
    before = "[\n"
    for item in items:
        yield before + item
        before = ",\n"
    yield f"{before}\n]\n" if before == "[\n" else "\n]\n"


def list_format_item(example: Example) -> str:
    lines = ",\n".join(f'    "{key}": "{escaped(getattr(example, key))}"' for key in _KEYS)
    return f"  {{\n{lines}\n  }}"


def escaped(text: str) -> str:
    """A text as it stands in JSON, without the quotes."""
    return _to_json(text)[1:-1]


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def words_in(example: Example) -> list[str]:
    """The words that the instruction lists, as written; none in a free-form instruction."""
    return [text for _, text in numbered_lines(example.instruction)]


def sentences_in(example: Example) -> list[str]:
    """The output's numbered lines without their numbers; an output without any counts as one sentence."""
    return [text for _, text in numbered_lines(example.output)] or [example.output.strip()]


def sentence_spans(example: Example) -> list[tuple[int, int]]:
    """Where each of ``sentences_in`` stands in the output: its first character, and the one after its last."""
    spans = []
    start = 0
    for line in example.output.split("\n"):
        if match := _NUMBERED.match(line.strip()):
            end = start + len(line.rstrip())
            spans.append((end - len(match[2] or ""), end))
        start += len(line) + 1
    return spans or [(len(example.output) - len(example.output.lstrip()), len(example.output.rstrip()))]


def pairs_in(example: Example) -> list[Pair]:
    """Each listed word with the sentence of its number; none of an example in which they do not correspond."""
    words, sentences = words_in(example), sentences_in(example)
    found = zip(words, sentences, strict=True) if len(words) == len(sentences) else ()
    return [Pair(" ".join(word.split()), " ".join(sentence.split())) for word, sentence in found if word and sentence]


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """The number and the text of each line such as ``3. A sentence.`` or ``3) A sentence.``, in their order."""
    return [(int(number), line.rstrip()) for number, line in _NUMBERED_LINES.findall(text)]


def read_examples(path: Path) -> tuple[Example, ...]:
    """The examples of a list-format file. Raises ``DataError`` with what is wrong with it."""
    examples, findings = check_examples(path, warn=False)
    findings.raise_errors()
    return tuple(examples)


def check_examples(path: Path, *, warn: bool = True) -> tuple[list[Example], Findings]:
    """A list-format file's examples that have the right shape, and what is wrong with it; ``warn=False`` is faster."""
    findings = Findings()
    try:
        return list(_checked(path, findings, warn)), findings
    except DataError as exc:
        return [], Findings(list(exc.problems))


def count_examples(path: Path) -> tuple[int, Findings]:
    """How many ``check_examples`` finds, and the same findings, in memory that hardly grows with the file."""
    findings = Findings()
    try:
        return sum(1 for _ in _checked(path, findings, warn=True)), findings
    except DataError as exc:
        return 0, Findings(list(exc.problems))


def _checked(path: Path, findings: Findings, warn: bool) -> Iterator[Example]:
    """The examples of the right shape; what is wrong goes to the findings. Raises ``DataError`` for the file as such."""
    first_index = FirstPlaces()  # by 64 bits of the example: they mislead once in ten million sets of a million
    for index, item in enumerate(_items(path)):
        wrong = _shape_problems(item)
        doubts: list[str] = []
        if not wrong:
            example = Example(item["instruction"], item.get("input", ""), item["output"])
            first = first_index.setdefault(hash(example), index)
            wrong, doubts = _content_problems(example, warn)
            if first != index:
                wrong.append(f"the same example as index {first}")
            yield example
        if wrong or doubts:
            where = at_index(path, index)
            findings.errors += [Problem(where, what) for what in wrong]
            findings.warnings += [Problem(where, what) for what in doubts]


def _items(path: Path) -> Iterator[Any]:
    if path.suffix.lower() in PAIRS_ONLY:
        read_text(path)
        raise file_error(path, f"{path.suffix} files hold sentence pairs; examples in list format are a .json file")
    index = -1
    for index, item in enumerate(json_items(path)):
        if index == 0 and is_pair(item):
            raise file_error(path, "holds sentence pairs; give it as data.source, or run `cefr-batch data build`")
        yield item
    if index < 0:
        raise file_error(path, "has no examples: the list is empty")


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


def _content_problems(example: Example, warn: bool) -> tuple[list[str], list[str]]:
    """What is wrong with an example, and what is doubtful."""
    wrong = []
    character = unusable_character((example.instruction, example.input, example.output))
    if character:
        wrong.append(f"has the control or broken character {character}; remove it")
    lists = regular_lists(example)
    if lists:
        return wrong, _doubts(*lists) if warn else []
    words = numbered_lines(example.instruction)
    wrong += _list_problems(words, example.output) if words else []
    return wrong, _doubts(words_in(example), sentences_in(example)) if warn else []


def regular_lists(example: Example) -> tuple[Sequence[str], Sequence[str]] | None:
    """``words_in`` and ``sentences_in`` in a fraction of the time, where there is nothing to say against their form.

    That is so with up to 100 words in the middle of the instruction and as many sentences, all in order. None: it may
    still be right.
    """
    size = example.output.count("\n") + 1
    if size > 100:
        return None
    instruction, output = _regular_forms(size)
    words, sentences = instruction.fullmatch(example.instruction), output.fullmatch(example.output)
    return (words.groups(), sentences.groups()) if words and sentences else None


@lru_cache
def _regular_forms(size: int) -> tuple[re.Pattern[str], re.Pattern[str]]:
    lines = r"\n".join(rf"{number}\. (\S.*)(?<=\S)" for number in range(1, size + 1))
    other = r"[^\s\d].*"  # a line that has no number
    return re.compile(rf"{other}\n{lines}(?:\n\n{other})?"), re.compile(lines)


def _list_problems(words: list[tuple[int, str]], output: str) -> list[str]:
    """What is wrong with an answer to an instruction that lists numbered words."""
    sentences = numbered_lines(output)
    if len(sentences) <= output.count("\n"):  # not every line is one
        lines = (line.strip() for line in output.split("\n"))
        loose = [line for line in lines if line and not _NUMBERED.match(line)]
        if loose:
            return [f'line {_excerpt(loose[0])} of the output has no number; lines must look like "1. A sentence."']
    wrong = [f"word {position} is empty" for position, (_, word) in enumerate(words, 1) if not word]
    wrong += [f"sentence {position} is empty" for position, (_, text) in enumerate(sentences, 1) if not text]
    if len(words) != len(sentences):
        wrong.append(f"{len(words)} words in the instruction, but {len(sentences)} sentences in the output")
    return wrong + _order_problems("words", words) + _order_problems("sentences", sentences)


def _order_problems(what: str, numbered: list[tuple[int, str]]) -> list[str]:
    numbers = [number for number, _ in numbered]
    for expected, number in enumerate(numbers, 1):
        if number != expected:
            return [
                f"the {what} are not numbered 1 to {len(numbers)} in order: {number} stands where {expected} belongs"
            ]
    return []


def _doubts(words: Sequence[str], sentences: Sequence[str]) -> list[str]:
    if len(words) != len(sentences) or all(map(uses_word, sentences, words)):
        return []
    return [
        f"word {position} ({word}) is not in its sentence: {_excerpt(sentence)}"
        for position, (word, sentence) in enumerate(zip(words, sentences, strict=True), 1)
        if word and sentence and not uses_word(sentence, word)
    ]


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
