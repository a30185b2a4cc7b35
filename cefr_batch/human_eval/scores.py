"""Ratings → means with intervals, differences between the models, agreement between the raters.

A sentence's value for a criterion is the mean of its raters' marks; a model's mean mark is the mean over its sentences, so
that a sentence with more raters does not count more. Intervals are 95 % percentile bootstrap intervals over sentences (for
differences: over words, baseline and tuned sentence together), 10,000 draws, seeded. They say how much another choice
of words would change the mean, not how other raters would judge, and are too narrow below some 20 sentences.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TypeVar

from cefr_batch.errors import Damaged
from cefr_batch.evaluation.bootstrap import Interval, mean_interval
from cefr_batch.human_eval.criteria import CRITERIA, SCALE
from cefr_batch.human_eval.form import MODELS
from cefr_batch.human_eval.level_scores import LevelScores, level_scores
from cefr_batch.human_eval.stored import all_rated, form_ids, get_form
from cefr_batch.records.ratings import Form, FormItem, Rated, Source
from cefr_batch.store import Store

T = TypeVar("T")
_Model = tuple[str, str, str]  # run, model, criterion
_Word = tuple[str, str, str, int, int]  # run, criterion, form, answer, position


@dataclass(frozen=True)
class MeanMark:
    """What a model's sentences got: mean mark from 1 to 5. ``interval`` is None with a single sentence."""

    run: str
    model: str  # baseline or tuned
    criterion: str
    mean: float
    interval: Interval | None
    items: int  # sentences rated
    marks: int  # of all raters together


@dataclass(frozen=True)
class MarkDifference:
    """Tuned minus baseline, over the words of which both models' sentences were rated."""

    run: str
    criterion: str
    mean: float
    interval: Interval | None
    pairs: int


@dataclass(frozen=True)
class Agreement:
    """Krippendorff's alpha, ordinal: 1 is full agreement, 0 what chance would give.

    ``alpha`` is None where it is not defined: no sentence with two raters (``items`` is 0), or all marks the same.
    """

    criterion: str
    alpha: float | None
    items: int  # sentences with the marks of two raters or more


@dataclass(frozen=True)
class Ratings:
    """What people said of some runs' sentences. In the order of the runs' names, the models and ``CRITERIA``.

    ``levels``: what they said of the sentences' levels; None where nobody was asked. ``left_out``: for each form in the
    store that is not what was written, why.
    """

    raters: int
    items: int  # sentences with at least one mark, or a level
    scores: tuple[MeanMark, ...]
    differences: tuple[MarkDifference, ...]
    agreement: tuple[Agreement, ...]
    levels: LevelScores | None = None
    left_out: tuple[str, ...] = ()


def collect_ratings(store: Store, runs: Sequence[str] = ()) -> Ratings:
    """All that was imported about these runs (none named: about any run). ``raters`` is 0 where nobody rated them.

    Agreement is over the sentences of these runs alone. What is in the store and is not what was written is
    left out: a form is named in ``left_out``. Raises ``StoreError`` if the store fails.
    """
    found, left_out = [], []
    for form_id in form_ids(store):
        try:
            form = get_form(store, form_id)
        except Damaged as exc:
            left_out.append(str(exc))
            continue
        if form and (not runs or any(source.run in runs for item in form.items for source in item.sources)):
            found.append((form, all_rated(store, form_id)))
    return replace(summarize(found, runs), left_out=tuple(left_out))


def summarize(forms: Iterable[tuple[Form, Sequence[Rated]]], runs: Sequence[str] = ()) -> Ratings:
    """As ``collect_ratings``, of forms and what their raters gave."""
    tally, (form, rated) = _Tally(frozenset(runs)), _as_one(forms)
    for item in form.items:
        tally.add(form, item, rated)
    return Ratings(
        raters=len(tally.raters),
        items=tally.items,
        scores=tuple(_scores(tally)),
        differences=tuple(_differences(tally)),
        agreement=tuple(_agreement(name, tally.marks[name]) for name in CRITERIA if tally.items),
        levels=level_scores([(form, rated)], runs),
    )


def _as_one(forms: Iterable[tuple[Form, Sequence[Rated]]]) -> tuple[Form, list[Rated]]:
    """These forms as one: a sentence that several of them show is one sentence, with the ratings of all. Where somebody
    rated it in several, the last one counts."""
    items: dict[tuple[str, str, str], FormItem] = {}
    given: dict[str, Rated] = {}
    for form, rated in forms:
        merged: dict[str, str] = {}  # the form's name of an item -> its name here
        for item in form.items:
            key = (item.level, item.word, item.sentence)
            known = items.setdefault(key, item.model_copy(update={"id": f"s{len(items)}", "sources": ()}))
            new = tuple(source for source in item.sources if source not in known.sources)
            items[key] = known.model_copy(update={"sources": known.sources + new})
            merged[item.id] = known.id
        for one in rated:
            before = given.get(one.rater) or Rated(form="", rater=one.rater, ratings={})
            given[one.rater] = Rated(
                form="",
                rater=one.rater,
                ratings={**before.ratings, **_renamed(one.ratings, merged)},
                levels={**before.levels, **_renamed(one.levels, merged)},
                qualification=one.qualification or before.qualification,
            )
    return Form(id="", seed=0, items=tuple(items.values())), list(given.values())


def _renamed(given: Mapping[str, T], merged: Mapping[str, str]) -> dict[str, T]:
    return {merged[item]: value for item, value in given.items() if item in merged}


@dataclass
class _Tally:
    """Marks, sorted by what they count for. Without ``runs`` all runs count."""

    runs: frozenset[str]
    raters: set[str] = field(default_factory=set)
    items: int = 0
    marks: dict[str, list[list[int]]] = field(
        default_factory=lambda: defaultdict(list)
    )  # criterion -> of each sentence
    of_model: dict[_Model, dict[tuple[str, str], list[int]]] = field(default_factory=lambda: defaultdict(dict))
    of_word: dict[_Word, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))  # -> model -> value

    def add(self, form: Form, item: FormItem, rated: Sequence[Rated]) -> None:
        sources = [source for source in item.sources if not self.runs or source.run in self.runs]
        given = [one for one in rated if one.ratings.get(item.id) or item.id in one.levels]
        if not sources or not given:
            return
        self.items += 1
        self.raters |= {one.rater for one in given}
        for criterion in CRITERIA:
            marks = [mark for one in given if (mark := one.ratings.get(item.id, {}).get(criterion))]
            if marks:
                self._count(form.id, item.id, sources, criterion, marks)

    def _count(self, form: str, item: str, sources: Sequence[Source], criterion: str, marks: list[int]) -> None:
        self.marks[criterion].append(marks)
        for source in sources:
            self.of_model[source.run, source.model, criterion][form, item] = marks
            word = (source.run, criterion, form, source.answer, source.position)
            self.of_word[word][source.model] = fmean(marks)


def _scores(tally: _Tally) -> Iterator[MeanMark]:
    for run in sorted({run for run, _, _ in tally.of_model}):
        for model in MODELS:
            for criterion in CRITERIA:
                if marks := list(tally.of_model.get((run, model, criterion), {}).values()):
                    values = [fmean(one) for one in marks]
                    count = sum(map(len, marks))
                    yield MeanMark(run, model, criterion, fmean(values), mean_interval(values), len(values), count)


def _differences(tally: _Tally) -> Iterator[MarkDifference]:
    of_run: dict[tuple[str, int], list[float]] = defaultdict(list)
    for (run, criterion, *_), value in sorted(tally.of_word.items()):
        if len(value) == len(MODELS):
            of_run[run, CRITERIA.index(criterion)].append(value["tuned"] - value["baseline"])
    for (run, index), values in sorted(of_run.items()):
        yield MarkDifference(run, CRITERIA[index], fmean(values), mean_interval(values), len(values))


def _agreement(criterion: str, marks: Sequence[Sequence[int]]) -> Agreement:
    together = [one for one in marks if len(one) > 1]
    if len({mark for one in together for mark in one}) < 2:
        return Agreement(criterion, None, len(together))
    import krippendorff

    counts = [[one.count(value) for value in SCALE] for one in together]
    alpha = krippendorff.alpha(value_counts=counts, value_domain=SCALE, level_of_measurement="ordinal")
    return Agreement(criterion, float(alpha), len(together))
