"""Which values of the comparison are marked as the best, and which settings it names as different."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.report_stores import A1, A2, B1, add_complete

from cefr_batch.evaluation.statistics import Spread
from cefr_batch.i18n.language import Language
from cefr_batch.report.collect import collect
from cefr_batch.report.compare import MEASURES, best_of, compare
from cefr_batch.store.local import LocalStore

figure = Language("en").figure
values = st.lists(st.one_of(st.none(), st.floats(-1e3, 1e3)), min_size=0, max_size=6)
ways = st.sampled_from(["higher", "lower"])


@given(values, ways)
def test_the_marked_are_exactly_those_that_look_like_the_best(
    row: list[float | None], better: Literal["higher", "lower"]
) -> None:
    known = [v for v in row if v is not None]
    marked = best_of(row, better, figure)
    assert len(marked) == len(row)
    if len({figure(v) for v in known}) < 2:  # nothing is better than anything
        assert not any(marked)
        return
    best = max(known) if better == "higher" else min(known)
    assert marked == tuple(v is not None and figure(v) == figure(best) for v in row)
    assert marked[row.index(best)]


@given(values, ways, st.randoms())
def test_marking_does_not_depend_on_the_order(
    row: list[float | None], better: Literal["higher", "lower"], random: Any
) -> None:
    order = list(range(len(row)))
    random.shuffle(order)
    marked = best_of(row, better, figure)
    assert best_of([row[i] for i in order], better, figure) == tuple(marked[i] for i in order)


@given(values)
def test_nothing_is_marked_where_more_is_no_merit(row: list[float | None]) -> None:
    assert not any(best_of(row, None, figure))


def test_values_that_look_the_same_are_a_tie() -> None:
    assert best_of([0.4312, 0.4338, 0.4362], "lower", figure) == (True, True, False)


def test_a_level_alone_is_not_the_best_of_anything(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    add_complete(store, "llama1b-b1-unsloth-v1", "B1", B1)
    assert not any(any(row.best) for row in compare(collect(store)).rows)


def test_merits_are_marked_and_sizes_are_not(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    add_complete(store, "llama1b-a2-unsloth-v1", "A2", A2)
    add_complete(store, "llama1b-b1-unsloth-v1", "B1", B1)
    marked = {row.measure.key: row.best for row in compare(collect(store)).rows}
    merits = {m.key for m in MEASURES if m.better}
    assert {key for key, best in marked.items() if any(best)} == merits
    assert merits == {
        "loss_reduction_percent",
        "perplexity_reduction_percent",
        "response_loss_reduction_percent",
        "seed_protocol_loss_reduction_percent",
        "seed_protocol_perplexity_reduction_percent",
        "final_train_loss",
        "best_eval_loss",
        "tuned_response_perplexity",
    }


def test_the_comparison_shows_the_stored_figures_not_recomputed_ones(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    made = add_complete(store, "llama1b-b1-unsloth-v1", "B1", B1)
    made["reduction"]["full"] = {"loss_percent": 12.3, "perplexity_percent": 45.6}
    store.put_json("runs/llama1b-b1-unsloth-v1/metrics.json", made)
    rows = {row.measure.key: row.values for row in compare(collect(store)).rows}
    assert rows["loss_reduction_percent"] == (Spread(12.3, None, 1),)
    assert rows["perplexity_reduction_percent"] == (Spread(45.6, None, 1),)


@pytest.mark.parametrize(
    "key", ["training__epochs", "lora__rank", "model__name", "backend", "evaluation__max_examples"]
)
def test_settings_that_differ_are_named(tmp_path: Path, key: str) -> None:
    store = LocalStore(tmp_path)
    add_complete(store, "llama1b-a1-unsloth-v1", "A1", A1, data__source="a1.csv")
    add_complete(store, "llama1b-b1-unsloth-v1", "B1", B1, data__source="b1.csv")
    assert not compare(collect(store)).differing
    add_complete(store, "llama1b-b1-unsloth-v1", "B1", B1, **{key: 7})
    differing = compare(collect(store)).differing
    assert {k: v[1] for k, v in differing.items()} == {key.replace("__", "."): 7}
