"""Sentence pairs → list-format examples for training and evaluation. The same seed gives the same bytes anywhere."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from cefr_batch.data.examples import Example, escaped, list_format_item, list_format_joined
from cefr_batch.data.pairs import Pair, distinct
from cefr_batch.data.places import FirstPlaces
from cefr_batch.errors import DataError, Problem

if TYPE_CHECKING:
    from cefr_batch.levels import DataSpec, Level

_TRIES = 200  # draws in a row that repeat an earlier example before we say that there are no more

T = TypeVar("T")
Pool = dict[str, list[Pair]]  # a case-folded word → its pairs
Hand = tuple[int, ...]  # the places of an example's pairs in the list that is dealt
Side = Literal["train", "eval"]


def build_examples(pairs: Iterable[Pair], spec: DataSpec, level: Level) -> tuple[list[Example], list[Example]]:
    """Training and evaluation examples, ``spec.examples`` in all; see ``deal``."""
    pairs = distinct(pairs)
    sides = {
        side: [example_of([pairs[place] for place in hand], level) for hand in hands]
        for side, hands in deal(pairs, spec)
    }
    return sides["train"], sides["eval"]


def deal(pairs: Sequence[Pair], spec: DataSpec) -> Iterator[tuple[Side, Iterator[Hand]]]:
    """The pairs of each example, ``spec.examples`` on both sides: use up a side before you ask for the next.

    Words and sentences are used evenly: none comes again before all others had their turn. With ``split_by`` sentence
    no evaluation sentence, with ``word`` no evaluation word or sentence, is on the training side; ``example`` splits
    the examples after they are drawn, which shares nearly all. Raises ``DataError`` where the pairs do not suffice.
    """
    rng = random.Random(spec.seed)  # noqa: S311 (no secret)
    places: dict[Pair, int] = {}
    for place, pair in enumerate(pairs):
        places.setdefault(pair, place)
    dealer = _Dealer(places, spec, rng)
    pool = _pool(places)
    if len(pool) < spec.words_per_example:
        what = f"the pairs have {len(pool)} different words, but an example needs {spec.words_per_example}"
        raise DataError([Problem(f"data.source {spec.source}", f"{what} (data.words_per_example)")])
    evals = min(max(round(spec.examples * spec.eval_fraction), 1), spec.examples - 1)
    if spec.split_by == "example":
        hands = dealer.hands(pool, spec.examples)
        yield "eval", islice(hands, evals)
        yield "train", hands
        return
    split = _split_words if spec.split_by == "word" else _split_sentences
    train, held_out = split(pool, spec, rng)
    _require_words(pool, train, held_out, spec)
    yield "train", dealer.hands(train, spec.examples - evals, " for training")
    yield "eval", dealer.hands(held_out, evals, " for evaluation")


def example_of(pairs: Sequence[Pair], level: Level) -> Example:
    """The words to write sentences with, and the pairs' sentences as the answer."""
    output = "\n".join(f"{number}. {pair.sentence}" for number, pair in enumerate(pairs, 1))
    return Example(instruction_for([pair.word for pair in pairs], level), "", output)


class Writer:
    """Writes examples of ``size`` pairs in list format, much faster than one by one: each pair is escaped only once."""

    def __init__(self, pairs: Sequence[Pair], size: int, level: Level) -> None:
        self._words = [escaped(pair.word) for pair in pairs]
        self._sentences = [escaped(pair.sentence) for pair in pairs]
        self._form = list_format_item(example_of([Pair("%s", "%s")] * size, level))

    def parts(self, hands: Iterable[Hand]) -> Iterator[str]:
        """``list_format_parts`` of the examples made of these hands."""
        form, words, sentences = self._form, self._words, self._sentences
        texts = ((*[words[place] for place in hand], *[sentences[place] for place in hand]) for hand in hands)
        return list_format_joined(form % of_hand for of_hand in texts)


def instruction_for(words: Sequence[str], level: Level) -> str:
    listed = "\n".join(f"{number}. {word}" for number, word in enumerate(words, 1))
    return (
        f"Generate {level}-level English sentences for these {len(words)} words:\n{listed}\n\n"
        f"Provide numbered sentences (1-{len(words)}), using each word naturally and appropriately for {level} level."
    )


def _pool(pairs: Iterable[Pair]) -> Pool:
    pool: Pool = {}
    for pair in pairs:
        pool.setdefault(pair.word.casefold(), []).append(pair)
    return pool


def _split_words(pool: Pool, spec: DataSpec, rng: random.Random) -> tuple[Pool, Pool]:
    held_out = set(_shuffled(pool, rng)[: _share(len(pool), spec)])
    evaluation = {word: pairs for word, pairs in pool.items() if word in held_out}
    seen = {pair.sentence for pairs in evaluation.values() for pair in pairs}  # a sentence may stand under two words
    train = {word: pairs for word, pairs in pool.items() if word not in held_out}
    return _without(train, seen), evaluation


def _split_sentences(pool: Pool, spec: DataSpec, rng: random.Random) -> tuple[Pool, Pool]:
    owners: dict[str, set[str]] = {}
    for word, pairs in pool.items():
        for pair in pairs:
            owners.setdefault(pair.sentence, set()).add(word)
    held_out = _held_out_sentences(owners, _share(len(owners), spec), rng)
    return _without(pool, held_out), _without(pool, owners.keys() - held_out)


def _held_out_sentences(owners: dict[str, set[str]], number: int, rng: random.Random) -> set[str]:
    """In rounds, one sentence of each word; a word's last one only when no word has more than one left."""
    left: dict[str, list[str]] = {}
    for sentence in _shuffled(owners, rng):
        for word in sorted(owners[sentence]):
            left.setdefault(word, []).append(sentence)
    held_out: set[str] = set()
    for keep in (1, 0):
        while len(held_out) < number:
            taken = _round(left, owners, keep, number - len(held_out), rng)
            if not taken:
                break
            held_out |= taken
    return held_out


def _round(
    left: dict[str, list[str]], owners: dict[str, set[str]], keep: int, most: int, rng: random.Random
) -> set[str]:
    """Take one sentence from each word that keeps ``keep`` others, as do all words that share it."""
    taken: set[str] = set()
    for word in _shuffled(left, rng):
        if len(taken) == most:
            break
        free = [one for one in left[word] if all(len(left[owner]) > keep for owner in owners[one])]
        for sentence in free[:1]:
            taken.add(sentence)
            for owner in owners[sentence]:
                left[owner].remove(sentence)
    return taken


def _share(number: int, spec: DataSpec) -> int:
    return max(round(number * spec.eval_fraction), 1)


def _without(pool: Pool, sentences: Collection[str]) -> Pool:
    left = {word: [pair for pair in pairs if pair.sentence not in sentences] for word, pairs in pool.items()}
    return {word: pairs for word, pairs in left.items() if pairs}


def _shuffled(items: Iterable[T], rng: random.Random) -> list[T]:
    """What ``rng.shuffle`` makes of them, in half the time: most of a build is this."""
    mixed = list(items)
    random_bits = rng.getrandbits
    for last in range(len(mixed) - 1, 0, -1):
        bits = (last + 1).bit_length()
        at = random_bits(bits)
        while at > last:
            at = random_bits(bits)
        mixed[last], mixed[at] = mixed[at], mixed[last]
    return mixed


def _require_words(pool: Pool, train: Pool, held_out: Pool, spec: DataSpec) -> None:
    need = spec.words_per_example
    short = [(side, len(words)) for side, words in (("training", train), ("evaluation", held_out)) if len(words) < need]
    if not short:
        return
    pieces = len(pool) if spec.split_by == "word" else len({p.sentence for pairs in pool.values() for p in pairs})
    ways = [f"lower data.words_per_example (to {max(min(n for _, n in short), 1)})"]
    fraction = math.ceil(100 * need / pieces) / 100
    if all(side == "evaluation" for side, _ in short) and fraction <= 0.5:
        ways.append(f"raise data.eval_fraction (to {fraction:g})")
    ways += ["add words and sentences", "set data.split_by: example"]
    counts = " and ".join(f"{number} different words for {side}" for side, number in short)
    what = (
        f"holding out {spec.eval_fraction:.0%} of {pieces} {spec.split_by}s leaves {counts}, but an example needs "
        f"{need}; {', '.join(ways[:-1])} or {ways[-1]}"
    )
    raise DataError([Problem(f"data.source {spec.source}", what)])


def _endless(cards: Sequence[T], rng: random.Random) -> Iterator[T]:
    """Cards in random order; none comes again before all others had their turn."""
    while True:
        yield from reversed(_shuffled(cards, rng))


class _Deck(Generic[T]):
    """The same, several at a time."""

    def __init__(self, cards: Sequence[T], rng: random.Random) -> None:
        self._cards = cards
        self._left: list[T] = []
        self._rng = rng

    def hand(self, number: int) -> list[T]:
        """So many different cards. What came twice, since the deck was mixed anew, is drawn next time."""
        if number <= len(self._left):  # no card is twice among those left
            dealt = self._left[-number:]
            del self._left[-number:]
            return dealt[::-1]
        hand: list[T] = []
        again: list[T] = []
        while len(hand) < number:
            self._left = self._left or _shuffled(self._cards, self._rng)
            card = self._left.pop()
            (again if card in hand else hand).append(card)
        self._left += reversed(again)
        return hand


class _Dealer:
    """Deals examples' pairs from a pool."""

    def __init__(self, places: Mapping[Pair, int], spec: DataSpec, rng: random.Random) -> None:
        self._places, self._spec, self._rng = places, spec, rng

    def hands(self, pool: Pool, number: int, side: str = "") -> Iterator[Hand]:
        """So many different hands."""
        places = [[self._places[pair] for pair in of_word] for of_word in pool.values()]
        words = _Deck([_endless(of_word, self._rng) for of_word in places], self._rng)
        first = FirstPlaces()
        found = tries = 0
        while found < number:
            hand = tuple(map(next, words.hand(self._spec.words_per_example)))
            # 64 bits, the same in any process since these are integers
            new = first.setdefault(hash(hand), found) == found
            tries = 0 if new else tries + 1
            if tries > _TRIES:
                raise DataError([Problem(f"data.source {self._spec.source}", self._too_few(pool, found, number, side))])
            if new:
                found += 1
                yield hand

    def _too_few(self, pool: Pool, found: int, number: int, side: str) -> str:
        sentences = sum(len(pairs) for pairs in pool.values())
        return (
            f"{len(pool)} words with {sentences} sentences{side} give only about {found} different examples of "
            f"{self._spec.words_per_example} words, but {number} are asked for; lower data.examples or add sentences"
        )
