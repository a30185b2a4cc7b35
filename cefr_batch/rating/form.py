"""Which sentences are rated, and in which order: a ``Form``, which is also the key that says whose they are.

A rater judges one sentence with the word that was asked for and the level: a whole answer of ten sentences is too much for
one mark, and a model that fails at one word of ten would drag the other nine along. For each run the same number of words
is drawn at random (seeded), and for each word both the untrained and the tuned model's greedy sentence is rated, so that
the two can be compared word by word. A word counts only where both wrote a sentence: how often one did not is in the
run's metrics.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from cefr_batch.errors import UsageError
from cefr_batch.store import to_json


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Stored):
    """Whose sentence it is: the ``position``-th word (from 1) of the run's generated answer ``answer`` (from 0)."""

    run: str
    model: str  # baseline or tuned
    answer: int
    position: int


class Item(_Stored):
    """A sentence to rate. Several sources wrote it where models, or runs of a level, wrote the same."""

    id: str
    level: str
    word: str
    sentence: str
    sources: tuple[Source, ...]


class Form(_Stored):
    """``ratings/<id>/key.json``. The items are in the order of the form."""

    id: str
    seed: int
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Pair:
    """One word of a run, and the sentence that each model wrote with it."""

    answer: int
    position: int
    word: str
    baseline: str
    tuned: str


@dataclass(frozen=True)
class Generated:
    """What a run's models wrote."""

    run: str
    level: str
    pairs: tuple[Pair, ...]


MODELS = ("baseline", "tuned")


def make_form(runs: Sequence[Generated], items: int, seed: int) -> Form:
    """A form of at most ``items`` sentences, the same for the same runs, number and seed.

    Order and ids follow from what the rater sees and the seed alone, never from the source. Raises ``UsageError`` where
    there are too few items for all runs.
    """
    words = items // (len(MODELS) * len(runs))
    if words < 1:
        raise UsageError(f"--items {items}: {len(runs)} runs need at least {len(MODELS) * len(runs)}, two a run")
    sources: dict[tuple[str, str, str], list[Source]] = defaultdict(list)  # by what the rater sees
    for run in sorted(runs, key=lambda run: run.run):
        for pair in _drawn(run, words, seed):
            for model in MODELS:
                source = Source(run=run.run, model=model, answer=pair.answer, position=pair.position)
                sources[run.level, pair.word, getattr(pair, model)].append(source)
    shown = sorted(sources)
    random.Random(f"order {seed}").shuffle(shown)  # noqa: S311
    width = len(str(len(shown)))
    made = tuple(
        Item(id=f"s{number:0{width}}", level=level, word=word, sentence=text, sources=tuple(sources[level, word, text]))
        for number, (level, word, text) in enumerate(shown, 1)
    )
    return Form(id=_form_id(seed, made), seed=seed, items=made)


def _drawn(run: Generated, words: int, seed: int) -> list[Pair]:
    return random.Random(f"{seed} {run.run}").sample(run.pairs, min(words, len(run.pairs)))  # noqa: S311


def _form_id(seed: int, items: Sequence[Item]) -> str:
    content = {"seed": seed, "items": [item.model_dump(mode="json") for item in items]}
    return hashlib.sha256(to_json(content)).hexdigest()[:12]
