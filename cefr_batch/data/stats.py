"""What is in a dataset, and how much of its evaluation side was seen in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from cefr_batch.data.examples import Example, sentences_in, words_in
from cefr_batch.data.near_duplicates import NearDuplicates
from cefr_batch.records.stages import Leakage

CountTokens = Callable[[Sequence[Example]], list[int]]  # of each example's whole text, see ``TokenCounter``


@dataclass(frozen=True)
class Stats:
    """A file's table. Words are compared without case; tokens are those of the whole text (None: not counted).

    ``examples``: None of sentence pairs, from which none are built yet.
    """

    examples: int | None
    unique_words: int
    sentences: int
    unique_sentences: int
    longest_example_tokens: int | None


@dataclass(frozen=True)
class Contents:
    """The words (case-folded) and sentences of examples, counted: what ``Stats`` and ``Leakage`` are made of."""

    examples: int
    words: Counter[str]
    sentences: Counter[str]

    def stats(self) -> Stats:
        """The table of these examples, without their tokens."""
        return Stats(self.examples, len(self.words), self.sentences.total(), len(self.sentences), None)

    def leakage_from(self, train: Contents) -> Leakage:
        """How much of these examples stands in those of the training side."""
        known = NearDuplicates(train.sentences)
        near = {sentence for sentence in self.sentences if sentence in train.sentences or sentence in known}
        return Leakage(
            sentences_percent=_percent(self.sentences, train.sentences),
            words_percent=_percent(self.words, train.words),
            near_sentences_percent=_percent(self.sentences, near),
        )


def contents_of(examples: Sequence[Example]) -> Contents:
    """The contents of examples."""
    words = Counter(word.casefold() for example in examples for word in words_in(example))
    sentences = Counter(sentence for example in examples for sentence in sentences_in(example))
    return Contents(len(examples), words, sentences)


def stats_of(examples: Sequence[Example], count: CountTokens | None = None) -> Stats:
    """The table of these examples; with ``count``, their tokens too."""
    longest = max(count(examples), default=0) if count else None
    return replace(contents_of(examples).stats(), longest_example_tokens=longest)


def stats_of_pairs(pairs: Sequence[Example]) -> Stats:
    """The table of sentence pairs, given as ``read_either`` gives them."""
    return replace(contents_of(pairs).stats(), examples=None)


def words_of(examples: Iterable[Example]) -> set[str]:
    """The words that the instructions list, case-folded."""
    return {word.casefold() for example in examples for word in words_in(example)}


def sentences_of(examples: Iterable[Example]) -> set[str]:
    """The different sentences of the outputs, word for word: what ``leakage`` compares."""
    return {sentence for example in examples for sentence in sentences_in(example)}


def leakage(train: Sequence[Example], evaluation: Sequence[Example]) -> Leakage:
    """How much of the evaluation examples stands in the training examples, in percent."""
    return contents_of(evaluation).leakage_from(contents_of(train))


def _percent(counts: Counter[str], seen: Collection[str]) -> float:
    hits = sum(number for text, number in counts.items() if text in seen)
    return 100 * hits / counts.total() if counts else 0.0
