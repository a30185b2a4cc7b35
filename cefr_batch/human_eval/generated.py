"""The sentences that runs' models wrote, as ``generation.json`` holds them. The only reader of that file here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cefr_batch.data.examples import numbered_lines
from cefr_batch.errors import NotFound, Problem, RatingError, StoreError
from cefr_batch.human_eval.form import Generated, SentencePair
from cefr_batch.records import layout
from cefr_batch.records.document import Settings
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.texts import GenerationRecord, WrittenExample
from cefr_batch.store import Store
from cefr_batch.store.manifest import of_manifest, read_manifest

_NOTHING_TO_RATE = (
    "there is no word for which both the untrained and the tuned model wrote a sentence, so there is nothing to rate; "
    "leave this run out, or train it longer"
)


def read_generated(store: Store, runs: Iterable[str]) -> list[Generated]:
    """What each run's two models wrote. Raises ``RatingError`` naming every run whose sentences cannot be read."""
    found, problems = [], []
    for run in runs:
        try:
            found.append(_read(store, run))
        except NotFound:
            what, remedy = f"has no generated sentences ({layout.GENERATION})", "generation.examples above 0"
            problems.append(Problem(run, f"{what}; run the level again with {remedy}"))
        except StoreError as exc:
            problems.append(Problem(run, f"{layout.GENERATION} cannot be used: {exc}"))
    problems += [Problem(run.run, _NOTHING_TO_RATE) for run in found if not run.pairs]
    if problems:
        raise RatingError(problems)
    return found


def _read(store: Store, run: str) -> Generated:
    store = of_manifest(store, read_manifest(store, run))
    written = store.get_record(layout.run_key(run, layout.GENERATION), GenerationRecord)
    settings = store.get_record(layout.run_key(run, layout.SPEC), SpecRecord).spec
    examples = written.examples
    return Generated(
        run,
        str(settings.get("level", "")),
        tuple(_pairs(examples)),
        answers=len(examples),
        asked=sum(len(example.words) for example in examples),
        cut=sum("greedy" in given.cut for example in examples for given in (example.baseline, example.tuned)),
        limit=_limit(settings),
    )


def _limit(settings: Settings) -> int:
    """``generation.max_new_tokens``; 0 where it is not known."""
    generation = settings.get("generation")
    limit = generation.get("max_new_tokens") if isinstance(generation, dict) else None
    return limit if isinstance(limit, int) else 0


def _pairs(examples: Sequence[WrittenExample]) -> Iterator[SentencePair]:
    for answer, example in enumerate(examples):
        baseline, tuned = (_sentences(text.greedy) for text in (example.baseline, example.tuned))
        for position, word in enumerate(example.words, 1):
            if position in baseline and position in tuned:
                yield SentencePair(answer, position, word, baseline[position], tuned[position])


def _sentences(text: str) -> dict[int, str]:
    """The first sentence of each number."""
    found: dict[int, str] = {}
    for number, sentence in numbered_lines(text):
        if sentence.strip():
            found.setdefault(number, sentence.strip())
    return found
