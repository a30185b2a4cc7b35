"""How numbers, durations, sizes and times look in each language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cefr_batch.i18n import units
from cefr_batch.i18n.language import Language

EN, TR = Language("en"), Language("tr")


@pytest.mark.parametrize(
    ("seconds", "english", "turkish"),
    [
        (402.4, "6 min 42 s (402.4 s)", "6 dk 42 sn (402,4 sn)"),
        (31.27, "31.3 s", "31,3 sn"),
        (0.0, "0.0 s", "0,0 sn"),
        (60.0, "1 min (60.0 s)", "1 dk (60,0 sn)"),
        (3725.04, "1 h 2 min 5 s (3,725.0 s)", "1 sa 2 dk 5 sn (3.725,0 sn)"),
        (90000.0, "25 h (90,000.0 s)", "25 sa (90.000,0 sn)"),
    ],
)
def test_durations(seconds: float, english: str, turkish: str) -> None:
    assert EN.duration(seconds) == english
    assert TR.duration(seconds) == turkish


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.0, "0 s"), (59.97, "1 min"), (402.4, "6 min 42 s"), (3605.0, "1 h 5 s")]
)
def test_short_durations(seconds: float, expected: str) -> None:
    assert units.short_duration(seconds) == EN.short_duration(seconds) == expected


@pytest.mark.parametrize(
    ("value", "english", "turkish"),
    [
        (68.66, "68.7%", "%68,7"),
        (0.0, "0.0%", "%0,0"),
        (100.0, "100.0%", "%100,0"),
        (99.97, ">99.9%", ">%99,9"),
        (0.01, "<0.1%", "<%0,1"),
        (-0.01, ">−0.1%", ">−%0,1"),
        (-20.04, "−20.0%", "−%20,0"),
        (None, "–", "–"),
    ],
)
def test_percentages_and_what_is_not_zero_or_not_all_never_looks_like_it(
    value: float, english: str, turkish: str
) -> None:
    assert EN.percent(value) == english
    assert TR.percent(value) == turkish


def test_figures_and_counts() -> None:
    assert EN.figure(0.426) == "0.43"
    assert EN.figure(0.4261, 3) == "0.426"
    assert EN.figure(22026.466) == "22,026.47"
    assert TR.figure(22026.466) == "22.026,47"
    assert EN.figure(None) == "–"
    assert (EN.count(1800), TR.count(1800)) == ("1,800", "1.800")
    assert (EN.plain_number(0.0002), TR.plain_number(0.0002)) == ("0.0002", "0,0002")


@given(st.floats(-1e6, 1e6))
def test_a_figure_is_rounded_as_python_rounds(value: float) -> None:
    rounded = f"{value:,.2f}"
    assert EN.figure(value, 2) == ("0.00" if rounded == "-0.00" else rounded.replace("-", "\N{MINUS SIGN}"))


def test_a_difference_has_its_sign_unless_it_looks_like_zero() -> None:
    assert [EN.signed(value) for value in (0.125, -0.93, 0.001, -0.001)] == ["+0.12", "−0.93", "0.00", "0.00"]
    assert TR.signed(0.5, 1) == "+0,5"


@pytest.mark.parametrize("value", [1e15, -1e20, 1e308, -1.7976931348623157e308])
def test_numbers_that_no_figure_is_are_shown_all_the_same(value: float) -> None:
    for shown in (EN.figure(value, 2), EN.percent(value), EN.plain_number(value)):
        assert f"{abs(value):.3g}" in shown


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (5 * 10**15, "5,000.0 TB"),
    ],
)
def test_sizes(n: int, expected: str) -> None:
    assert units.size(n) == EN.size(n) == expected


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("2025-10-26T13:07:11+00:00", "26 October 2025, 13:07 UTC"),
        ("2025-10-26T16:07:11+03:00", "26 October 2025, 13:07 UTC"),
        ("2025-10-26T13:07:11", "2025-10-26T13:07:11"),
        ("yesterday", "yesterday"),
    ],
)
def test_times_are_utc_and_what_is_none_stays(stamp: str, expected: str) -> None:
    assert EN.time(stamp) == expected
