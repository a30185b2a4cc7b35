"""Sentence pairs → list-format examples for training and evaluation. A seed gives the same bytes on every machine."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from cefr_batch.data.examples import Example
from cefr_batch.data.near_duplicates import groups
from cefr_batch.data.pairs import Pair, distinct
from cefr_batch.errors import DataError, Problem

if TYPE_CHECKING:
    from cefr_batch.config.schema import DataSpec, Level

_MAX_REPEATS = 200  # samples in a row that were drawn before, until we say that there are no more

T = TypeVar("T")
Pool = dict[str, list[Pair]]  # a case-folded word → its pairs
Sample = tuple[Pair, ...]  # the pairs of one example, each of another word


def build_examples(
    pairs: Iterable[Pair], spec: DataSpec, level: Level, *, within_training: bool = False
) -> tuple[list[Example], list[Example]]:
    """Training and evaluation examples, ``spec.examples`` in all.

    Words and sentences are used evenly: none comes again before all others had their turn. With ``split_by`` sentence
    no evaluation sentence, with ``similar_sentence`` none that is near one (``near_duplicates``) either, with ``word`` no
    evaluation word or sentence, is on the training side; ``example`` splits the examples after they are drawn, which shares
    nearly all. ``within_training``: the training side split once more in the same way, instead of both sides. Raises
    ``DataError`` where the pairs do not suffice.
    """
    pool = _pool(distinct(pairs))
    train, evaluation = _samples_within_training(pool, spec) if within_training else _samples(pool, spec)
    return [example_of(sample, level) for sample in train], [example_of(sample, level) for sample in evaluation]


def example_of(pairs: Sequence[Pair], level: Level) -> Example:
    """The words to write sentences with, and the pairs' sentences as the answer."""
    output = "\n".join([f"{number}. {pair.sentence}" for number, pair in enumerate(pairs, 1)])
    return Example(instruction_for([pair.word for pair in pairs], level), "", output)


def instruction_for(words: Sequence[str], level: Level) -> str:
    """The request for one sentence with each of these words, as the models are trained to answer it."""
    listed = "\n".join([f"{number}. {word}" for number, word in enumerate(words, 1)])
    return (
        f"Generate {level}-level English sentences for these {len(words)} words:\n{listed}\n\n"
        f"Provide numbered sentences (1-{len(words)}), using each word naturally and appropriately for {level} level."
    )


def _pool(pairs: Iterable[Pair]) -> Pool:
    pool: Pool = {}
    for pair in pairs:
        pool.setdefault(pair.word.casefold(), []).append(pair)
    return pool


def _samples(pool: Pool, spec: DataSpec) -> tuple[list[Sample], list[Sample]]:
    """The samples of both sides: training, evaluation."""
    if len(pool) < spec.words_per_example:
        what = f"the pairs have {len(pool)} different words, but an example needs {spec.words_per_example}"
        raise DataError([Problem(f"data.source {spec.source}", f"{what} (data.words_per_example)")])
    rng = random.Random(spec.seed)  # noqa: S311 (no secret)
    evals = held_out_of(spec.examples, spec)
    if spec.split_by == "example":
        samples = _draw(pool, spec.examples, spec, rng)
        return samples[evals:], samples[:evals]
    train, held_out = _split(pool, spec, rng)
    _require_words(pool, train, held_out, spec)
    return (
        _draw(train, spec.examples - evals, spec, rng, " for training"),
        _draw(held_out, evals, spec, rng, " for evaluation"),
    )


def held_out_of(examples: int, spec: DataSpec) -> int:
    """How many of so many examples are not trained on: at least one, and never all."""
    return min(_share(examples, spec), examples - 1)


def _samples_within_training(pool: Pool, spec: DataSpec) -> tuple[list[Sample], list[Sample]]:
    """As ``_samples``, of what that leaves for training."""
    left = spec.examples - held_out_of(spec.examples, spec)
    if left < 2:
        what = f"{spec.examples} examples leave {left} for training, too few to split off a validation part"
        raise DataError([Problem(f"data.source {spec.source}", f"{what}; raise data.examples")])
    if spec.split_by == "example":
        samples, _ = _samples(pool, spec)
        held_out = held_out_of(left, spec)
        return samples[held_out:], samples[:held_out]
    train, _ = _split(pool, spec, random.Random(spec.seed))  # noqa: S311 (no secret)
    return _samples(train, spec.model_copy(update={"examples": left}))


def _draw(pool: Pool, number: int, spec: DataSpec, rng: random.Random, side: str = "") -> list[Sample]:
    """So many different samples of a pool."""
    words = _WordSampler(pool, rng)
    pairs = {word: _endless(of_word, rng) for word, of_word in pool.items()}
    samples: dict[Sample, None] = {}
    repeats = 0
    while len(samples) < number:
        sample = tuple([next(pairs[word]) for word in words.draw(spec.words_per_example)])
        repeats = repeats + 1 if sample in samples else 0
        samples[sample] = None
        if repeats > _MAX_REPEATS:
            what = _too_few(pool, len(samples), number, spec, side)
            raise DataError([Problem(f"data.source {spec.source}", what)])
    return list(samples)


def _too_few(pool: Pool, found: int, number: int, spec: DataSpec, side: str) -> str:
    sentences = sum(len(pairs) for pairs in pool.values())
    return (
        f"{len(pool)} words with {sentences} sentences{side} give only about {found} different examples of "
        f"{spec.words_per_example} words, but {number} are asked for; lower data.examples or add sentences"
    )


class _WordSampler:
    """Draws words in random order, several different ones at a time; none again before all others had their turn."""

    def __init__(self, words: Iterable[str], rng: random.Random) -> None:
        self._words = _endless(words, rng)
        self._postponed: list[str] = []

    def draw(self, number: int) -> list[str]:
        drawn: list[str] = []
        repeated: list[str] = []  # a new round began within this draw: they come first in the next one
        while len(drawn) < number:
            word = self._postponed.pop() if self._postponed else next(self._words)
            (repeated if word in drawn else drawn).append(word)
        self._postponed += reversed(repeated)
        return drawn


def _endless(items: Iterable[T], rng: random.Random) -> Iterator[T]:
    """Rounds of all items, each round in a new random order."""
    while True:
        yield from reversed(_shuffled(items, rng))


def _shuffled(items: Iterable[T], rng: random.Random) -> list[T]:
    mixed = list(items)
    rng.shuffle(mixed)
    return mixed


def _split(pool: Pool, spec: DataSpec, rng: random.Random) -> tuple[Pool, Pool]:
    """The pools of training and evaluation, which share nothing that ``split_by`` names."""
    return (_split_words if spec.split_by == "word" else _split_sentences)(pool, spec, rng)


def _split_words(pool: Pool, spec: DataSpec, rng: random.Random) -> tuple[Pool, Pool]:
    held_out = set(_shuffled(pool, rng)[: _share(len(pool), spec)])
    evaluation = {word: pairs for word, pairs in pool.items() if word in held_out}
    seen = {pair.sentence for pairs in evaluation.values() for pair in pairs}  # a sentence may stand under two words
    train = {word: pairs for word, pairs in pool.items() if word not in held_out}
    return _without(train, seen), evaluation


def _split_sentences(pool: Pool, spec: DataSpec, rng: random.Random) -> tuple[Pool, Pool]:
    """Sentences of one unit stay together; with ``split_by`` sentence each is a unit of its own."""
    unit_of = _units(pool, spec)
    words_of: dict[str, set[str]] = {}
    for word, pairs in pool.items():
        for pair in pairs:
            words_of.setdefault(unit_of[pair.sentence], set()).add(word)
    units = _held_out_units(words_of, _share(len(words_of), spec), rng)
    held_out = {sentence for sentence, unit in unit_of.items() if unit in units}
    return _without(pool, held_out), _without(pool, unit_of.keys() - held_out)


def _units(pool: Pool, spec: DataSpec) -> dict[str, str]:
    """Each sentence → the one that stands for its unit."""
    sentences = [pair.sentence for pairs in pool.values() for pair in pairs]
    return groups(sentences) if spec.split_by == "similar_sentence" else {sentence: sentence for sentence in sentences}


def _held_out_units(words_of: dict[str, set[str]], number: int, rng: random.Random) -> set[str]:
    """In rounds, one unit of each word; a word's last one only when no word has more than one left."""
    left: dict[str, list[str]] = {}
    for sentence in _shuffled(words_of, rng):
        for word in sorted(words_of[sentence]):
            left.setdefault(word, []).append(sentence)
    held_out: set[str] = set()
    for keep in (1, 0):
        while len(held_out) < number:
            taken = _hold_out_round(left, words_of, keep, number - len(held_out), rng)
            if not taken:
                break
            held_out |= taken
    return held_out


def _hold_out_round(
    left: dict[str, list[str]], words_of: dict[str, set[str]], keep: int, most: int, rng: random.Random
) -> set[str]:
    """Take one unit from each word that keeps ``keep`` others, as do all words that share it."""
    taken: set[str] = set()
    for word in _shuffled(left, rng):
        if len(taken) == most:
            break
        free = [one for one in left[word] if all(len(left[other]) > keep for other in words_of[one])]
        for sentence in free[:1]:
            taken.add(sentence)
            for other in words_of[sentence]:
                left[other].remove(sentence)
    return taken


def _share(number: int, spec: DataSpec) -> int:
    return max(round(number * spec.eval_fraction), 1)


def _without(pool: Pool, sentences: Collection[str]) -> Pool:
    left = {word: [pair for pair in pairs if pair.sentence not in sentences] for word, pairs in pool.items()}
    return {word: pairs for word, pairs in left.items() if pairs}


def _require_words(pool: Pool, train: Pool, held_out: Pool, spec: DataSpec) -> None:
    need = spec.words_per_example
    short = [(side, len(words)) for side, words in (("training", train), ("evaluation", held_out)) if len(words) < need]
    if not short:
        return
    pieces = len(pool) if spec.split_by == "word" else len(set(_units(pool, spec).values()))
    of_what = {"word": "words", "sentence": "sentences"}.get(spec.split_by, "groups of similar sentences")
    ways = [f"lower data.words_per_example (to {max(min(n for _, n in short), 1)})"]
    fraction = math.ceil(100 * need / pieces) / 100
    if all(side == "evaluation" for side, _ in short) and fraction <= 0.5:
        ways.append(f"raise data.eval_fraction (to {fraction:g})")
    ways += ["add words and sentences", "set data.split_by: example"]
    counts = " and ".join(f"{number} different words for {side}" for side, number in short)
    what = (
        f"holding out {spec.eval_fraction:.0%} of {pieces} {of_what} leaves {counts}, but an example needs "
        f"{need}; {', '.join(ways[:-1])} or {ways[-1]}"
    )
    raise DataError([Problem(f"data.source {spec.source}", what)])
