"""Stores whose models wrote sentences of known levels: the starter corpus's, passed off as what they may or may not be."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

from support.report_stores import A1, A2, B1, Figures, add_complete, add_examples, add_object

from cefr_batch.config.schema import Level
from cefr_batch.data.examples import Example, list_format
from cefr_batch.data.pairs import read_pairs
from cefr_batch.records import layout
from cefr_batch.store.local import LocalStore

FIGURES: Mapping[str, Figures] = {"A1": A1, "A2": A2, "B1": B1}
Texts = Sequence[Sequence[str]]


def sentences(level: str) -> list[str]:
    """The starter corpus's sentences of a level, in a fixed random order."""
    found = [pair.sentence for pair in read_pairs("starter", Level(level))]
    random.Random(level).shuffle(found)
    return found


def in_lists(items: Sequence[str], length: int) -> list[list[str]]:
    """Cut into lists of this length."""
    return [list(items[start : start + length]) for start in range(0, len(items), length)]


def numbered(texts: Sequence[str]) -> str:
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))


def add_texts(
    store: LocalStore, run: str, tuned: Texts, untrained: Texts, references: Texts, **others: Texts
) -> dict[str, Any]:
    """A complete run's generated texts, and its evaluation examples in the store's dataset. ``others``: ``zero_shot``,
    ``few_shot``. Returns generation.json."""
    examples = [
        {
            "index": i,
            "words": [f"word{n}" for n in range(len(text))],
            "tuned": dict.fromkeys(("greedy", "sampled"), numbered(text)),
            "baseline": dict.fromkeys(("greedy", "sampled"), numbered(other)),
            **{name: dict.fromkeys(("greedy", "sampled"), numbered(texts[i])) for name, texts in others.items()},
        }
        for i, (text, other) in enumerate(zip(tuned, untrained, strict=True))
    ]
    record = {"examples": examples}
    add_object(store, run, layout.GENERATION, record)
    data = list_format([Example("Write sentences.", "", numbered(text)) for text in references])
    spec = store.get_json(layout.run_key(run, layout.SPEC))
    store.put(layout.dataset_key(spec["dataset"], layout.EVAL_FILE), data)
    made = store.get_json(layout.run_key(run, layout.METRICS))
    made["data"]["eval_sha256"] = hashlib.sha256(data).hexdigest()
    store.put_json(layout.run_key(run, layout.METRICS), made)
    return record


def measured_store(store: LocalStore) -> LocalStore:
    """A1 and A2 write at their levels, "B1" writes A1; the untrained models write B2."""
    import numpy as np

    untrained = in_lists(sentences("B2")[:180], 9)
    for level, wrote in (("A1", "A1"), ("A2", "A2"), ("B1", "A1")):
        run = f"llama1b-{level.lower()}-unsloth-v1"
        add_complete(store, run, level, FIGURES[level])
        noise = np.random.default_rng(1).normal(0, 5, 200)
        before, after = (100 * loss for loss in FIGURES[level].response)
        add_examples(store, run, before + noise, after + noise / 4, sha256=level)
        own = sentences(level)
        answers = own[:90] if wrote == level else sentences(wrote)[:90]
        add_texts(store, run, [*in_lists(answers, 5), [], []], untrained, in_lists(own[90:], 5))
    return store
