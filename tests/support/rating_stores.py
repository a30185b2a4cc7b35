"""Stores with runs that have generated sentences, and raters that fill a form. All of it made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cefr_batch.human_eval.criteria import CRITERIA
from cefr_batch.human_eval.form import make_form
from cefr_batch.human_eval.generated import read_generated
from cefr_batch.human_eval.stored import put_form
from cefr_batch.records import layout
from cefr_batch.records.ratings import Form
from cefr_batch.store import Store

RUNS = ("tiny-a1-peft-v1", "tiny-b1-peft-v1")
WORDS = ("travel", "decide", "garden", "window", "borrow", "quiet", "enough", "weather", "promise", "careful")


def add_generated(store: Store, run: str, examples: Sequence[Mapping[str, Any]] | None = None) -> None:
    """A complete run, as far as rating looks at it; without ``examples`` three answers to ten words each."""
    level = layout.run_level(run)
    at = "2026-01-01T00:00:00+00:00"
    spec = {
        "run": run,
        "dataset": "0" * 64,
        "spec": {"level": level, "generation": {"max_new_tokens": 60}},
        "submitted_at": at,
    }
    store.put_json(layout.run_key(run, layout.SPEC), spec)
    store.put_json(layout.run_key(run, layout.MANIFEST), {"run": run, "complete_at": at, "objects": []})
    made = [answers(run, number) for number in range(3)] if examples is None else list(examples)
    store.put_json(
        layout.run_key(run, layout.GENERATION), {"examples": [{"index": i, **one} for i, one in enumerate(made)]}
    )


def answers(run: str, number: int) -> dict[str, Any]:
    level = layout.run_level(run)
    words = [f"{word}{number}" for word in WORDS]
    before = [f"The {word} thing number {level} is is here." for word in words]
    after = [f"We like a {word} on day {level}." for word in words]
    return example(words, before, after)


def example(words: Sequence[str], baseline: Sequence[str], tuned: Sequence[str]) -> dict[str, Any]:
    return {
        "words": list(words),
        "baseline": {"greedy": numbered(baseline), "sampled": "1. Not this one."},
        "tuned": {"greedy": numbered(tuned), "sampled": "1. Nor this one."},
    }


def numbered(sentences: Sequence[str]) -> str:
    return "".join(f"{number}. {text}\n" for number, text in enumerate(sentences, 1))


def stored_form(store: Store, runs: Sequence[str] = RUNS, items: int = 12, seed: int = 7) -> Form:
    for run in runs:
        add_generated(store, run)
    form = make_form(read_generated(store, runs), items, seed)
    put_form(store, form)
    return form


Mark = Callable[[str, str], int | None]  # (item, criterion) -> 1..5, or None for a gap


def saved_json(form: Form, rater: str, mark: Mark) -> str:
    """As the form saves it."""
    rows = [{"item": item.id, **{name: mark(item.id, name) for name in CRITERIA}} for item in form.items]
    return json.dumps({"form": form.id, "rater": rater, "ratings": rows})


def saved_csv(form: Form, rater: str, mark: Mark, separator: str = ",") -> str:
    """As the form saves it, but for the byte-order mark."""
    lines: list[Sequence[Any]] = [("form", "rater", "item", *CRITERIA)]
    for item in form.items:
        marks = (mark(item.id, name) for name in CRITERIA)
        lines.append((form.id, rater, item.id, *("" if value is None else value for value in marks)))
    return "".join(separator.join(map(str, line)) + "\r\n" for line in lines)
