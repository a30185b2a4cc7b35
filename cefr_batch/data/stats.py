"""What is in a dataset, and how much of its evaluation side was seen in training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cefr_batch.data.examples import Example, sentences_in, words_in

CountTokens = Callable[[Sequence[Example]], list[int]]  # of each example's whole text, see ``TokenCounter``


@dataclass(frozen=True)
class Stats:
    """A file's table. Words are compared without case; tokens are those of the whole text (None: not counted)."""

    examples: int
    unique_words: int
    sentences: int
    unique_sentences: int
    longest_example_tokens: int | None


@dataclass(frozen=True)
class Leakage:
    """How many percent of the evaluation side's sentences and words, as listed there, stand in the training side too.

    Sentences are compared word for word (the output's numbered lines without their numbers), words without case.
    """

    sentences_percent: float
    words_percent: float


def stats_of(examples: Sequence[Example], count: CountTokens | None = None) -> Stats:
    sentences = [sentence for example in examples for sentence in sentences_in(example)]
    return Stats(
        examples=len(examples),
        unique_words=len(words_of(examples)),
        sentences=len(sentences),
        unique_sentences=len(set(sentences)),
        longest_example_tokens=max(count(examples), default=0) if count else None,
    )


def words_of(examples: Iterable[Example]) -> set[str]:
    """The words that the instructions list, case-folded."""
    return {word.casefold() for example in examples for word in words_in(example)}


def sentences_of(examples: Iterable[Example]) -> set[str]:
    """The different sentences of the outputs, word for word: what ``leakage`` compares."""
    return {sentence for example in examples for sentence in sentences_in(example)}


def leakage(train: Iterable[Example], evaluation: Iterable[Example]) -> Leakage:
    seen_sentences: set[str] = set()
    seen_words: set[str] = set()
    for example in train:
        seen_sentences.update(sentences_in(example))
        seen_words.update(word.casefold() for word in words_in(example))
    held_out = list(evaluation)
    return Leakage(
        _percent(sentence in seen_sentences for example in held_out for sentence in sentences_in(example)),
        _percent(word.casefold() in seen_words for example in held_out for word in words_in(example)),
    )


def _percent(hits: Iterable[bool]) -> float:
    found = list(hits)
    return 100 * sum(found) / len(found) if found else 0.0
