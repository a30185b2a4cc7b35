"""Sentence pairs, a word and a sentence that uses it: what list-format examples are built from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cefr_batch.data.inflection import has_gap, uses_word
from cefr_batch.data.io import DataFile, TableLayout, read_data_file, unusable_character
from cefr_batch.data.near_duplicates import NearDuplicates

if TYPE_CHECKING:
    from cefr_batch.config.schema import Level

_REQUEST = re.compile(r"^Generate an? \S+ sentence with (?:the word )?(.+)$", re.DOTALL)
_NUMBER = re.compile(r"\d{1,9}[.)]\s")
CONVERSATIONS = (
    "holds conversations (messages or ShareGPT), which cannot be trained on; make each turn an object with "
    "instruction, input and output"
)
_GAP = "the sentence has a gap where its word should be; write the word there, since the pair is used as it is"
_LOST = "the word is not in its sentence; the pair is used as it is"
_NEAR = "a sentence is nearly the same as an earlier one; data.split_by: similar_sentence keeps both in one set"


class Pair(NamedTuple):
    """Both on one line: runs of white space are single blanks."""

    word: str
    sentence: str


def read_pairs(source: str, level: Level, layout: TableLayout | None = None) -> list[Pair]:
    """The pairs of a file (.json, .jsonl, .csv, .xlsx), or of the level's starter corpus. Raises ``DataError``."""
    from cefr_batch.config.schema import STARTERS  # late: this takes longer than the check of a small file

    file = read_data_file(starter_file(level, source)) if source in STARTERS else read_data_file(Path(source), layout)
    pairs = parse_pairs(file, warn=False)
    file.diagnostics.raise_errors()
    return pairs


def starter_file(level: Level, source: str = "starter") -> Path:
    """The level's CSV file in the installed package: of the newest version, or of the one that ``starter-v1`` names."""
    version = source.removeprefix("starter").removeprefix("-")
    return Path(str(files("cefr_batch.data") / "starter" / version / f"{level.value.lower()}.csv"))


def record_kind(record: Any) -> str | None:
    """What a record is meant as: ``examples``, ``sentence pairs`` or ``conversations``; None if it does not say."""
    if not isinstance(record, Mapping):
        return None
    if "messages" in record or "conversations" in record:
        return "conversations"
    if "instruction" in record:
        return "examples"
    is_pair = "word" in record or "sentence" in record or _REQUEST.match(str(record.get("input")))
    return "sentence pairs" if is_pair else None


def parse_pairs(file: DataFile, *, warn: bool = True) -> list[Pair]:
    """A file's good pairs; what is wrong with the others goes to its diagnostics. ``warn=False`` is faster."""
    return [pair for _, pair in numbered_pairs(file, warn=warn)]


def numbered_pairs(file: DataFile, *, warn: bool = True) -> list[tuple[int, Pair]]:
    """As ``parse_pairs``, each with its record's number."""
    if record_kind(file.first) == "examples":
        file.error("holds examples in list format; give it as data.train or data.eval, not data.source")
        return []
    if record_kind(file.first) == "conversations":
        file.error(CONVERSATIONS)
        return []
    pairs: list[tuple[int, Pair]] = []
    first_number: dict[Pair, int] = {}
    sentences = NearDuplicates()
    for number, record in file.records:
        try:
            pair = _pair(record)
        except ValueError as exc:
            file.error(str(exc), number)
            continue
        pairs.append((number, pair))
        if warn:
            first = first_number.setdefault(pair, number)
            for what, detail in _pair_warnings(pair, file.place(first) if first != number else None):
                file.warning(what, number, detail)
            if near := next((one for one in sentences.near(pair.sentence) if one != pair.sentence), None):
                file.warning(_NEAR, number, f"{pair.sentence!r}, earlier {near!r}")
            sentences.add(pair.sentence)
    if not pairs and not file.failed:
        file.error("has no sentence pairs")
    return pairs


def _pair_warnings(pair: Pair, earlier: str | None) -> Iterator[tuple[str, str]]:
    """What deserves a look, and what is special about this pair."""
    if earlier:
        yield "repeats an earlier pair, which is used once", earlier
    if not uses_word(pair.sentence, pair.word):
        yield _GAP if has_gap(pair.sentence) else _LOST, f"{pair.word!r} in {pair.sentence!r}"
    elif _capital_by_chance(pair):
        yield "the word has a capital letter, but not in its sentence; it is used as it is", repr(pair.word)
    if _NUMBER.match(pair.sentence):
        yield "the sentence begins with a number, but examples number it anyway; remove it", repr(pair.sentence)


def _capital_by_chance(pair: Pair) -> bool:
    """As a spreadsheet gives one to the first word of a cell."""
    small = pair.word[:1].lower() + pair.word[1:]
    if small == pair.word:
        return False
    inside = set(re.findall(r"\w+", pair.sentence))
    return small.split()[0] in inside and pair.word.split()[0] not in inside


def _pair(record: Any) -> Pair:
    """The pair of a record. Raises ``ValueError`` with everything that is wrong with it."""
    word, sentence = _fields(record)
    pair = Pair(" ".join(word.split()), " ".join(sentence.split()))
    character = unusable_character((word, sentence))
    wrong = [f"the {name} is empty" for name, text in zip(pair._fields, pair, strict=True) if not text]
    if character:
        wrong.append(f"has the control or broken character {character}; remove it")
    if wrong:
        raise ValueError("; ".join(wrong))
    return pair


def _fields(record: Any) -> tuple[str, str]:
    """The word and the sentence of a record. Raises ``ValueError`` with the reason."""
    if not isinstance(record, Mapping):
        raise ValueError("must be an object with word and sentence")
    names = ("input", "output") if "input" in record and "output" in record else ("word", "sentence")
    missing = [name for name in names if name not in record]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing; a pair has word and sentence (or input and output)")
    word, sentence = (record[name] for name in names)
    if not isinstance(word, str) or not isinstance(sentence, str):
        raise ValueError(f"{names[0]} and {names[1]} must both be text")
    if names == ("word", "sentence"):
        return word, sentence
    request = _REQUEST.match(word.strip())
    if not request:
        raise ValueError(f"input {word[:60]!r} must look like 'Generate a B1-level sentence with absolutely'")
    return request[1], sentence


def distinct(pairs: Iterable[Pair]) -> list[Pair]:
    """Each pair once, in order."""
    return list(dict.fromkeys(pairs))
