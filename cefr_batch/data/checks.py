"""Check a data file of either form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cefr_batch.data.examples import Example, numbered_examples, pairs_in, parse_examples, sentences_in
from cefr_batch.data.io import DataFile, Diagnostics, TableLayout, read_data_file
from cefr_batch.data.near_duplicates import NearDuplicates
from cefr_batch.data.pairs import Pair, distinct, numbered_pairs, parse_pairs, record_kind
from cefr_batch.data.special_tokens import SpecialTokens

FEW_SENTENCES = 50  # different ones of a file; the intervals of a report resample them
_SHOWN = 3  # sentences


@dataclass(frozen=True)
class FileCheck:
    """What a file holds (``examples`` or ``sentence pairs``), how many good ones, and the file, which knows what is wrong
    with the others.

    ``sentences``: the different sentences of the good ones; ``pairs``: their words with their sentences, each with its
    record's number.
    """

    kind: str
    good: int
    file: DataFile
    sentences: tuple[str, ...]
    pairs: tuple[tuple[int, Pair], ...]

    @property
    def diagnostics(self) -> Diagnostics:
        """All errors and warnings so far."""
        return self.file.diagnostics


def check_file(path: Path, tokens: SpecialTokens | None = None, layout: TableLayout | None = None) -> FileCheck:
    """Check a file of examples (list format) or of sentence pairs; its first record, or its name, says which it holds.

    ``tokens``: of the model that is to be trained, which would take their texts for the tokens themselves.
    """
    file = read_data_file(path, layout)
    if tokens:
        _find_control_tokens(file, tokens)
    if _holds_pairs(file):
        pairs, holds = numbered_pairs(file), "sentence pairs"
        good, sentences = len(pairs), [pair.sentence for _, pair in pairs]
    else:
        examples, holds = numbered_examples(file), "examples"
        good, sentences = len(examples), [sentence for example in examples for sentence in sentences_in(example)]
        pairs = [(number, pair) for example, number in examples.items() for pair in pairs_in(example)]
        _warn_of_few_sentences(file, sentences)
    return FileCheck(holds, good, file, tuple(dict.fromkeys(sentences)), tuple(pairs))


def _holds_pairs(file: DataFile) -> bool:
    """By its first record; of a file without any by its name."""
    return record_kind(file.first) == "sentence pairs" or (not file.records and file.path.suffix.lower() != ".json")


def read_either(path: Path, layout: TableLayout) -> tuple[tuple[Example, ...], bool]:
    """A file's examples, or its sentence pairs as an example each; and whether they are pairs. Raises ``DataError``."""
    file = read_data_file(path, layout)
    are_pairs = _holds_pairs(file)
    if are_pairs:
        pairs = distinct(parse_pairs(file, warn=False))
        examples = [Example(f"1. {pair.word}", "", f"1. {pair.sentence}") for pair in pairs]
    else:
        examples = parse_examples(file, warn=False)
    file.diagnostics.raise_errors()
    return tuple(examples), are_pairs


def _warn_of_few_sentences(file: DataFile, sentences: Sequence[str]) -> None:
    different = len(set(sentences))
    if 0 < different < FEW_SENTENCES and len(sentences) >= 2 * different:
        file.warning(
            f"its examples repeat only {different:,} different sentences, {len(sentences):,} times in all: a model learns "
            f"so few by heart, and figures measured on them are uncertain; use {FEW_SENTENCES} or more"
        )


def _find_control_tokens(file: DataFile, tokens: SpecialTokens) -> None:
    for number, record in file.records:
        texts = record.values() if isinstance(record, dict) else ()
        if token := tokens.in_text("\n".join(text for text in texts if isinstance(text, str))):
            file.error(f"has {token} in its text, which the model would take for a control token; remove it", number)


def shared_sentences(evaluation: FileCheck, training: Iterable[FileCheck]) -> list[str]:
    """A warning of evaluation sentences that are trained on word for word, and one of those that nearly are."""
    trained = dict.fromkeys(sentence for check in training for sentence in check.sentences)
    known = NearDuplicates(trained)
    same = [repr(sentence) for sentence in evaluation.sentences if sentence in trained]
    others = [sentence for sentence in evaluation.sentences if sentence not in trained]
    near = [f"{one!r}, there {found!r}" for one in others for found in [next(known.near(one), None)] if found]
    counted = (("are in the training files word for word", same), ("are nearly in the training files", near))
    return [
        f"{len(found):,} of the different evaluation sentences {what}: {_first(found)}"
        for what, found in counted
        if found
    ]


def _first(texts: Sequence[str]) -> str:
    return "; ".join([*texts[:_SHOWN], *(["…"] if len(texts) > _SHOWN else [])])
