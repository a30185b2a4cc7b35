"""What is in a dataset, and how much of its evaluation side was seen in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from cefr_batch.data.build import Hand
from cefr_batch.data.examples import Example, sentences_in, words_in
from cefr_batch.data.pairs import Pair

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


@dataclass
class Contents:
    """What ``Stats`` and ``Leakage`` are made of, counted example by example: memory grows with what is different only."""

    examples: int = 0
    words: Counter[str] = field(default_factory=Counter)
    sentences: Counter[str] = field(default_factory=Counter)

    def dealt(self, hands: Iterable[Hand], pairs: Sequence[Pair]) -> Iterator[Hand]:
        """The same hands; the examples made of them are counted when the last has passed."""
        places: Counter[int] = Counter()
        for hand in hands:
            self.examples += 1
            places.update(hand)
            yield hand
        for place, number in places.items():
            self.words[pairs[place].word.casefold()] += number
            self.sentences[pairs[place].sentence] += number

    def stats(self) -> Stats:
        return Stats(self.examples, len(self.words), self.sentences.total(), len(self.sentences), None)

    def leakage_from(self, train: Contents) -> Leakage:
        return Leakage(_percent(self.sentences, train.sentences), _percent(self.words, train.words))


def contents_of(examples: Iterable[Example]) -> Contents:
    contents = Contents()
    for example in examples:
        contents.examples += 1
        contents.words.update(word.casefold() for word in words_in(example))
        contents.sentences.update(sentences_in(example))
    return contents


def stats_of(examples: Sequence[Example], count: CountTokens | None = None) -> Stats:
    longest = max(count(examples), default=0) if count else None
    return replace(contents_of(examples).stats(), longest_example_tokens=longest)


def words_of(examples: Iterable[Example]) -> set[str]:
    """The words that the instructions list, case-folded."""
    return {word.casefold() for example in examples for word in words_in(example)}


def sentences_of(examples: Iterable[Example]) -> set[str]:
    """The different sentences of the outputs, word for word: what ``leakage`` compares."""
    return {sentence for example in examples for sentence in sentences_in(example)}


def leakage(train: Iterable[Example], evaluation: Iterable[Example]) -> Leakage:
    return contents_of(evaluation).leakage_from(contents_of(train))


def _percent(counts: Counter[str], seen: Counter[str]) -> float:
    hits = sum(number for text, number in counts.items() if text in seen)
    return 100 * hits / counts.total() if counts else 0.0
