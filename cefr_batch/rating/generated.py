"""The sentences that runs' models wrote, as ``generation.json`` holds them. The only reader of that file here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from cefr_batch import layout
from cefr_batch.data.examples import numbered_lines
from cefr_batch.errors import NotFound, Problem, RatingError, StoreError
from cefr_batch.rating.form import Generated, Pair
from cefr_batch.store import Store


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Answers(_Part):
    greedy: str


class _Example(_Part):
    words: list[str]
    baseline: _Answers
    tuned: _Answers


class _GenerationFile(_Part):
    examples: list[_Example]


def read_generated(store: Store, runs: Iterable[str]) -> list[Generated]:
    """What each run's two models wrote. Raises ``RatingError`` with every run of which that cannot be had."""
    found, problems = [], []
    for run in runs:
        try:
            found.append(_read(store, run))
        except NotFound:
            problems.append(
                Problem(run, f"has no {layout.GENERATION}; a run writes it if generation.examples is above 0")
            )
        except (StoreError, ValidationError) as exc:
            problems.append(Problem(run, f"{layout.GENERATION} cannot be used: {exc}"))
    problems += [Problem(run.run, "no word has a sentence of both models") for run in found if not run.pairs]
    if problems:
        raise RatingError(problems)
    return found


def _read(store: Store, run: str) -> Generated:
    file = _GenerationFile.model_validate(store.get_json(layout.run_key(run, layout.GENERATION)))
    level = store.get_json(layout.run_key(run, layout.SPEC))["spec"]["level"]
    return Generated(run, level, tuple(_pairs(file.examples)))


def _pairs(examples: Sequence[_Example]) -> Iterator[Pair]:
    for answer, example in enumerate(examples):
        baseline, tuned = (_sentences(text.greedy) for text in (example.baseline, example.tuned))
        for position, word in enumerate(example.words, 1):
            if position in baseline and position in tuned:
                yield Pair(answer, position, word, baseline[position], tuned[position])


def _sentences(text: str) -> dict[int, str]:
    """The first sentence of each number."""
    found: dict[int, str] = {}
    for number, sentence in numbered_lines(text):
        if sentence.strip():
            found.setdefault(number, sentence.strip())
    return found
