"""The grammar of ``--set``: single values, lists and ranges."""

from __future__ import annotations

from contextlib import suppress

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cefr_batch.config.load import load_spec
from cefr_batch.config.sweep import MAX_SWEEP, Range, Values, parse_choice, parse_choices, sweep
from cefr_batch.errors import SpecError

_WORDS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True)
_NUMBERS = st.one_of(
    st.integers(0, 10**6).map(str),
    st.floats(1e-12, 1e12).map(repr).filter(lambda text: "+" not in text or "e" in text),
)


def test_a_range_is_a_run_for_each_value_and_several_ranges_every_combination() -> None:
    assert sweep(["training.seed=1..3", "lora.rank=8"]) == [(f"training.seed={n}", "lora.rank=8") for n in (1, 2, 3)]
    assert len(sweep(["training.seed=1..4", "lora.rank=8..12"])) == 20
    assert sweep([]) == [()]
    assert sweep(["training.learning_rate=1e-4,2.5e-4"]) == [
        ("training.learning_rate=1e-4",),
        ("training.learning_rate=2.5e-4",),
    ]


def test_words_are_listed_as_numbers_are_and_every_combination_is_made() -> None:
    assert sweep(["training.lr_scheduler=cosine,linear", "lora.dropout=0,0.05"]) == [
        ("training.lr_scheduler=cosine", "lora.dropout=0"),
        ("training.lr_scheduler=cosine", "lora.dropout=0.05"),
        ("training.lr_scheduler=linear", "lora.dropout=0"),
        ("training.lr_scheduler=linear", "lora.dropout=0.05"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "data.source=a,b.csv",
        "model.name=a..b",
        "model.name=../models/x",
        "lora.target_modules=[q_proj, v_proj]",
        'reference.source="Yılmaz, 2024"',
        "training.seed=1..",
        "training.seed=1...3",
        "training.seed=1,,2",
        "nothing",
        "",
    ],
)
def test_what_is_neither_a_list_nor_a_range_is_one_value(text: str) -> None:
    assert parse_choice(text) == Values((text,))
    assert sweep([text]) == [(text,)]


@pytest.mark.parametrize("text", ["training.seed=5..1", "training.seed=0..1000", "lora.dropout=0.2..0.1"])
def test_an_empty_range_and_one_of_too_many_runs_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"must be a range with at least 1 and at most 1000 values, as in 1\.\.5"):
        sweep([text])
    with pytest.raises(SpecError, match="make 2500 runs of a level, more than the limit of 1000; use shorter ranges"):
        sweep(["training.seed=1..50", "lora.rank=1..50"])


def test_a_range_without_an_end_of_values_is_for_a_search_alone() -> None:
    rate = parse_choice("training.learning_rate=1e-4..1e-3:log")
    assert rate == Range("training.learning_rate", 1e-4, 1e-3, whole=False, log=True)
    assert parse_choice("lora.rank=4..64:log") == Range("lora.rank", 4, 64, whole=True, log=True)
    with pytest.raises(SpecError) as caught:
        sweep(["training.learning_rate=1e-4..1e-3:log", "lora.dropout=0.0..0.1", "lora.rank=4..64:log"])
    said = [problem.what for problem in caught.value.problems]
    assert len(said) == 3
    assert said[0] == (
        "'training.learning_rate=0.0001..0.001:log' stands for any number in a range, which only `search` can use; name the "
        "values to run, as in training.learning_rate=0.0001,0.001"
    )
    with pytest.raises(SpecError, match="begins at 0, which has no logarithm"):
        parse_choices(["training.weight_decay=0..0.1:log"])


@given(key=st.sampled_from(["lora.rank", "training.lr_scheduler"]), items=st.lists(_WORDS | _NUMBERS, min_size=2))
def test_a_list_gives_each_of_its_values_once_in_order(key: str, items: list[str]) -> None:
    found = parse_choice(f"{key}={','.join(items)}")
    assert isinstance(found, Values)
    assert found.overrides == tuple(f"{key}={item}" for item in dict.fromkeys(items))
    assert found.key == key


@given(ends=st.tuples(_NUMBERS, _NUMBERS), log=st.booleans())
def test_a_range_is_read_again_from_how_it_is_shown(ends: tuple[str, str], log: bool) -> None:
    low, high = sorted(ends, key=float)
    try:
        found = parse_choice(f"x.y={low}..{high}{':log' * log}")
    except ValueError:
        assert log
        assert float(low) == 0
        return
    assert isinstance(found, Range)
    assert parse_choice(str(found)) == found
    assert (found.low, found.high, found.log) == (float(low), float(high), log)
    assert found.whole == (low.isdecimal() and high.isdecimal())


@settings(max_examples=20)  # each reads the job files
@given(value=st.floats(1e-12, 1))
def test_a_value_of_a_range_is_the_same_number_once_it_is_read(value: float) -> None:
    """What a search draws is what the trial trains with, to the bit."""
    text = Range("training.learning_rate", 1e-12, 1, whole=False, log=True).override(value)
    assert load_spec("B1", overrides=[text]).training.learning_rate == value


@given(first=st.integers(0, 10**6), more=st.integers(0, MAX_SWEEP - 1))
def test_a_range_of_whole_numbers_has_both_of_its_ends(first: int, more: int) -> None:
    runs = sweep([f"training.seed={first}..{first + more}"])
    assert [yaml.safe_load(one.partition("=")[2]) for (one,) in runs] == list(range(first, first + more + 1))


@given(text=st.text(max_size=60))
def test_any_text_is_a_choice_or_refused(text: str) -> None:
    with suppress(ValueError):
        assert isinstance(parse_choice(text), Values | Range)
