"""Which sentences are rated, and in which order: a ``Form``, which also records which run and model wrote each of them.

A rater judges one sentence with the word that was asked for and the level: a whole answer of ten sentences is too much for
one mark, and a model that fails at one word of ten would drag the other nine along. For each run the same number of words
is drawn at random (seeded), and for each word both the untrained and the tuned model's greedy sentence is rated, so that
the two can be compared word by word. A word counts only where both wrote a sentence: how often one did not is in the
run's metrics.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cefr_batch.errors import UsageError
from cefr_batch.records.ratings import Form, FormItem, Source
from cefr_batch.store import to_json


@dataclass(frozen=True)
class SentencePair:
    """One word of a run, and the sentence that each model wrote with it."""

    answer: int
    position: int
    word: str
    baseline: str
    tuned: str


@dataclass(frozen=True)
class Generated:
    """What a run's models wrote. ``answers``: of each model; ``asked``: words in all of them; ``cut``: answers of either
    that reached the ``limit`` of tokens before they were closed."""

    run: str
    level: str
    pairs: tuple[SentencePair, ...]
    answers: int = 0
    asked: int = 0
    cut: int = 0
    limit: int = 0  # generation.max_new_tokens


MODELS = ("baseline", "tuned")


def make_form(runs: Sequence[Generated], items: int, seed: int) -> Form:
    """A form of at most ``items`` sentences, the same for the same runs, number and random seed.

    Order and ids depend on the texts shown and the seed alone, never on the source, so they tell the rater nothing.
    Raises ``UsageError`` where there are too few items for all runs.
    """
    words = items // (len(MODELS) * len(runs))
    if words < 1:
        least = len(MODELS) * len(runs)
        raise UsageError(f"--items {items} is too small for {len(runs)} runs; give at least {least} (two per run)")
    sources: dict[tuple[str, str, str], list[Source]] = defaultdict(list)  # by what the rater sees
    for run in sorted(runs, key=lambda run: run.run):
        for pair in _sample(run, words, seed):
            for model in MODELS:
                source = Source(run=run.run, model=model, answer=pair.answer, position=pair.position)
                sources[run.level, pair.word, getattr(pair, model)].append(source)
    shown = sorted(sources)
    random.Random(f"order {seed}").shuffle(shown)  # noqa: S311
    width = len(str(len(shown)))
    made = tuple(
        FormItem(
            id=f"s{number:0{width}}", level=level, word=word, sentence=text, sources=tuple(sources[level, word, text])
        )
        for number, (level, word, text) in enumerate(shown, 1)
    )
    return Form(id=_form_id(seed, made), seed=seed, items=made)


def why_fewer(form: Form, runs: Sequence[Generated], items: int) -> list[str]:
    """Why a form has fewer sentences than were asked for, and how to get more."""
    words = items // (len(MODELS) * len(runs))
    short = [run for run in runs if len(run.pairs) < words]
    each = " of each run" if len(runs) > 1 else ""
    wanted = f"a form of {items} sentences needs {words} words{each}"
    reasons = [f"{_written_for(run)}; {wanted}" for run in short]
    shared = sum(len(item.sources) - 1 for item in form.items)
    if shared:
        reasons.append(f"a sentence that was written more than once is shown once ({shared} of them)")
    if items != words * len(MODELS) * len(runs):
        reasons.append("each run has the same number of words, and each word two sentences")
    if answers := max((_answers_for(run, words) for run in short), default=0):
        limit = max((run.limit for run in short if run.cut), default=0)
        longer = f" --set generation.max_new_tokens={2 * limit}" if limit else ""
        enough = f"--set generation.examples={answers} --set evaluation.max_examples={answers}{longer}"
        reasons.append(f"for more, submit the level again, with its profile if it had one, and {enough}")
        more = "raise data.examples, too (the share data.eval_fraction of them is for evaluation, 10 % by default)"
        reasons.append(f"if `cefr-batch plan` with these settings shows fewer answers than {answers}, {more}")
    if single := sum(" " not in item.sentence.strip() for item in form.items):
        why = "an untrained model often writes no more, which leaves little to rate"
        reasons.append(f"sentences of a single word: {single} of these {len(form.items)}; {why}")
    return reasons


def _written_for(run: Generated) -> str:
    cut = f"; {run.cut} answers were cut off at generation.max_new_tokens={run.limit}" if run.cut else ""
    asked = f" of the {run.asked} asked for" if run.asked else ""
    return f"{run.run}: both models wrote a sentence for {len(run.pairs)} words{asked}{cut}"


def _answers_for(run: Generated, words: int) -> int:
    """How many answers should do, if they have as many sentences as those that there are."""
    return math.ceil(words * run.answers / len(run.pairs)) if run.pairs else 0


def _sample(run: Generated, words: int, seed: int) -> list[SentencePair]:
    return random.Random(f"{seed} {run.run}").sample(run.pairs, min(words, len(run.pairs)))  # noqa: S311


def _form_id(seed: int, items: Sequence[FormItem]) -> str:
    content = {"seed": seed, "items": [item.model_dump(mode="json") for item in items]}
    return hashlib.sha256(to_json(content)).hexdigest()[:12]
