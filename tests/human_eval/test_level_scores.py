"""Raters' levels: what is said of them is what plain loops over the raters' files give."""

from __future__ import annotations

import math
from itertools import combinations
from statistics import fmean
from typing import cast, get_args

import pytest
from support.alpha_by_definition import interval_alpha
from support.kappa_by_definition import quadratic_weighted_kappa

from cefr_batch.evaluation.level_estimator import level_estimator
from cefr_batch.human_eval.level_scores import LevelScores, level_scores
from cefr_batch.human_eval.scores import summarize
from cefr_batch.human_eval.table import ratings_markdown
from cefr_batch.human_eval.texts import QUALIFICATION_TEXTS
from cefr_batch.records.level_figures import SCALE
from cefr_batch.records.ratings import Form, FormItem, Qualification, Rated, RatedLevel, Source

SENTENCES = (
    "I like my cat.",
    "She went to school because it was late.",
    "Had he been told, the negotiations might have taken another course.",
    "We are happy.",
    "The committee postponed its decision until further evidence became available.",
    "They have lived here since they were children.",
)
RUNS = {"A1": "tiny-a1-peft-v1", "B2": "tiny-b2-peft-v1"}
Given = dict[str, dict[str, int]]  # rater -> item -> 1..6


def a_form(items: int = 24) -> Form:
    """Of two runs; the sentences of the models in turn, the last one by both."""
    made = []
    for number in range(items):
        level = "A1" if number % 4 < 2 else "B2"
        models = ("baseline", "tuned") if number == items - 1 else (("baseline", "tuned")[number % 2],)
        sources = tuple(Source(run=RUNS[level], model=model, answer=number, position=1) for model in models)
        text = SENTENCES[number % len(SENTENCES)]
        made.append(FormItem(id=f"s{number:02}", level=level, word="w", sentence=text, sources=sources))
    return Form(id="0" * 12, seed=1, items=tuple(made))


def given_levels(form: Form) -> Given:
    """Three raters who disagree in a known way; the second leaves every fifth sentence out."""
    true = {item.id: SCALE.index(item.level) + 1 + (n % 3 == 0) for n, item in enumerate(form.items)}
    return {
        "r1": true,
        "r2": {item: min(level + (n % 2), 6) for n, (item, level) in enumerate(true.items()) if n % 5},
        "r3": {item: max(level - (n % 4 == 1) + 2 * (n % 7 == 0), 1) for n, (item, level) in enumerate(true.items())},
    }


def rated_by(form: Form, given: Given, qualification: Qualification | None = None) -> list[Rated]:
    return [
        Rated(
            form=form.id,
            rater=rater,
            ratings={},
            levels={item: cast(RatedLevel, SCALE[level - 1]) for item, level in levels.items()},
            qualification=qualification,
        )
        for rater, levels in given.items()
    ]


@pytest.fixture(scope="module")
def scores() -> LevelScores:
    form = a_form()
    found = level_scores([(form, rated_by(form, given_levels(form), "teacher"))])
    assert found
    return found


def test_how_many_judged_what(scores: LevelScores) -> None:
    given = given_levels(a_form())
    assert (scores.raters, scores.sentences) == (3, 24)
    assert scores.judgements == sum(map(len, given.values()))
    assert scores.qualifications == {"teacher": 3}


def test_distance_to_the_target_is_over_means_of_raters(scores: LevelScores) -> None:
    form, given = a_form(), given_levels(a_form())
    assert [(one.run, one.model) for one in scores.distances] == [
        (RUNS[level], model) for level in ("A1", "B2") for model in ("baseline", "tuned")
    ]
    for one in scores.distances:
        means = []
        for item in form.items:
            if any((source.run, source.model) == (one.run, one.model) for source in item.sources):
                means.append(fmean(levels[item.id] for levels in given.values() if item.id in levels))
        off = [mean - SCALE.index(one.level) - 1 for mean in means]
        assert one.sentences == len(means)
        assert one.mean == pytest.approx(fmean(means), abs=1e-12)
        assert one.mean_difference.value == pytest.approx(fmean(off), abs=1e-12)
        assert one.rmse.value == pytest.approx(math.sqrt(fmean(x * x for x in off)), abs=1e-12)
        assert (one.rmse.interval is None) == (len(means) < 10)


def test_kappa_with_the_target_is_over_single_judgements(scores: LevelScores) -> None:
    form, given = a_form(), given_levels(a_form())
    for one in scores.kappas:
        pairs = [
            (levels[item.id], SCALE.index(item.level) + 1)
            for item in form.items
            if any(source.model == one.model for source in item.sources)
            for levels in given.values()
            if item.id in levels
        ]
        expected = quadratic_weighted_kappa(pairs, categories=6)
        assert one.kappa
        assert expected
        assert one.judgements == len(pairs)
        assert one.kappa.value == pytest.approx(float(expected), abs=1e-12)
        assert one.kappa.interval
        assert one.kappa.interval.low < one.kappa.value < one.kappa.interval.high


def test_agreement_among_raters(scores: LevelScores) -> None:
    given = given_levels(a_form())
    kappas = []
    for first, second in combinations(given.values(), 2):
        kappas.append(quadratic_weighted_kappa([(first[i], second[i]) for i in first if i in second], categories=6))
    units = [[levels[item.id] for levels in given.values() if item.id in levels] for item in a_form().items]
    alpha = interval_alpha(units)
    assert alpha
    assert scores.agreement.sentences == sum(len(unit) > 1 for unit in units)
    assert scores.agreement.pairs == 3
    assert scores.agreement.kappa == pytest.approx(float(sum(k for k in kappas if k) / 3), abs=1e-12)
    assert scores.agreement.alpha == pytest.approx(float(alpha), abs=1e-12)


def test_the_estimator_is_compared_with_the_raters(scores: LevelScores) -> None:
    form, given = a_form(), given_levels(a_form())
    found = scores.estimator
    assert found
    estimates = {item.id: float(level_estimator().estimate([item.sentence])[0]) for item in form.items}
    off = [
        estimates[item.id] - fmean(levels[item.id] for levels in given.values() if item.id in levels)
        for item in form.items
    ]
    pairs = [(level, round(estimates[item])) for levels in given.values() for item, level in levels.items()]
    assert (found.sentences, found.judgements) == (24, len(pairs))
    assert found.mean_difference.value == pytest.approx(fmean(off), abs=1e-12)
    assert found.rmse.value == pytest.approx(math.sqrt(fmean(x * x for x in off)), abs=1e-12)
    assert found.kappa
    assert found.kappa.value == pytest.approx(float(quadratic_weighted_kappa(pairs, 6) or 0), abs=1e-12)
    assert found.spearman
    assert found.spearman.interval
    assert -1 <= found.spearman.interval.low < found.spearman.value < found.spearman.interval.high <= 1


def test_raters_who_agree_with_the_target_and_each_other() -> None:
    form = a_form()
    true = {item.id: SCALE.index(item.level) + 1 for item in form.items}
    found = level_scores([(form, rated_by(form, {"r1": true, "r2": true}))])
    assert found
    assert {one.rmse.value for one in found.distances} == {0.0}
    assert [one.kappa and one.kappa.value for one in found.kappas] == [1.0, 1.0]
    assert (found.agreement.kappa, found.agreement.alpha) == (1.0, 1.0)


def test_a_form_of_one_level_has_no_kappa_with_the_target_and_one_rater_no_agreement() -> None:
    form = a_form()
    found = level_scores([(form, rated_by(form, {"r1": given_levels(form)["r1"]}))], [RUNS["A1"]])
    assert found
    assert {one.level for one in found.distances} == {"A1"}
    assert [one.kappa for one in found.kappas] == [None, None]
    assert (found.agreement.sentences, found.agreement.kappa, found.agreement.alpha) == (0, None, None)
    shown = ratings_markdown(summarize([(form, rated_by(form, {"r1": given_levels(form)["r1"]}))], [RUNS["A1"]]))
    for reason in (
        "The kappa of raters and target cannot be computed",
        "The raters' agreement on levels cannot be computed",
    ):
        assert reason in shown


def test_only_what_has_no_value_is_given_a_reason(scores: LevelScores) -> None:
    form = a_form()
    assert list(scores.undefined()) == []
    one_level = level_scores([(form, rated_by(form, {"r1": {item.id: 2 for item in form.items}}))])
    assert one_level
    assert one_level.estimator
    assert one_level.estimator.kappa, "the estimates differ, so that chance can be told from agreement"
    assert [reason.split(" cannot ")[0] for reason in one_level.undefined()] == [
        "The raters' agreement on levels",
        "Spearman's rank correlation",
    ]


def test_pairs_of_raters_without_a_kappa_may_agree_all_the_same() -> None:
    """The pairs share one sentence each, so no pair has a kappa; over all three raters, alpha is 1."""
    form = a_form(2)
    rated = rated_by(form, {"r1": {"s00": 1, "s01": 3}, "r2": {"s00": 1}, "r3": {"s01": 3}})
    found = level_scores([(form, rated)])
    assert found
    assert (found.agreement.alpha, found.agreement.kappa) == (1.0, None)
    assert "The kappa of two raters cannot be computed" in "".join(found.undefined())


def test_nobody_gave_a_level() -> None:
    form = a_form()
    marks = Rated(form=form.id, rater="r1", ratings={"s00": {"naturalness": 3}})
    assert level_scores([(form, [marks])]) is None
    assert summarize([(form, [marks])]).levels is None


def test_a_rater_who_gave_levels_only_counts() -> None:
    form = a_form()
    ratings = summarize([(form, rated_by(form, {"r1": {"s00": 2}}))])
    assert (ratings.raters, ratings.items) == (1, 1)
    assert ratings.levels
    assert ratings.levels.judgements == 1


def test_names_of_levels_and_qualifications_are_the_same_everywhere() -> None:
    assert get_args(RatedLevel) == SCALE
    assert tuple(QUALIFICATION_TEXTS) == get_args(Qualification)
