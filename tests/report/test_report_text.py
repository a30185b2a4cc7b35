"""How numbers look, and that foreign text stays text."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from cefr_batch.report import text
from cefr_batch.report.language import Language

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def cells(markdown: str) -> list[Token]:
    return [token for token in MARKDOWN.parse(markdown) if token.type == "inline"]


def shown(token: Token) -> str:
    """The text of an inline token; it must hold nothing but text."""
    children = token.children or []
    assert {child.type for child in children} <= {"text", "text_special"}
    return "".join(child.content for child in children)


AWKWARD = st.text(st.sampled_from("ab1 _*`|\\<>[]()!&#;~$\n\r\t\x1b-+.=:/\u2028é"), max_size=30)


@given(AWKWARD | st.text(max_size=30))
@example("a|b")
@example("a\\|b")
@example("ends in a backslash\\")
@example("&lt;b&gt; &#124; _x_ __y__ snake_case *z* ~~s~~")
@example("<img src=x onerror=alert(1)>")
@example("[click](javascript:alert(1))")
@example("![x](y)")
@example("a\n\n# heading")
@example("`` ` ``")
def test_escaped_text_shows_as_it_is_in_a_table_and_in_a_line(raw: str) -> None:
    header, _, left, right, *more = cells("\n".join(text.table(("x", "y"), [(text.escaped(raw), "end")])))
    assert not more
    assert shown(left) == text.plain(raw)
    assert shown(right) == "end"
    (line,) = cells(f"Reason: {text.escaped(raw)}.")[:1] if raw else cells("Reason: .")
    assert shown(line) == f"Reason: {text.plain(raw)}."
    assert shown(header) == "x"


@given(AWKWARD | st.text(max_size=30))
@example("`")
@example("a|b")
@example("x\\")
def test_code_shows_as_it_is_in_a_table(raw: str) -> None:
    *_, cell, end = cells("\n".join(text.table(("x", "y"), [(text.code(raw), "end")])))
    children = cell.children or []
    assert {child.type for child in children} <= {"text", "text_special", "code_inline"}
    assert "".join(child.content for child in children) == text.plain(raw)
    assert shown(end) == "end"


@given(st.text(max_size=50))
def test_plain_text_is_one_printable_line(raw: str) -> None:
    assert text.plain(raw).isprintable()


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
    assert text.short_duration(seconds) == EN.short_duration(seconds) == expected


@pytest.mark.parametrize(
    ("value", "english", "turkish"),
    [
        (68.66, "68.7%", "%68,7"),
        (0.0, "0.0%", "%0,0"),
        (100.0, "100.0%", "%100,0"),
        (99.97, ">99.9%", ">%99,9"),
        (0.01, "<0.1%", "<%0,1"),
        (-0.01, ">-0.1%", ">-%0,1"),
        (-20.04, "-20.0%", "-%20,0"),
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
    assert EN.figure(value, 2) == ("0.00" if rounded == "-0.00" else rounded)


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
    assert text.size(n) == EN.size(n) == expected


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


def test_a_table_is_aligned_as_plain_text() -> None:
    assert text.table(("What", "n"), [("a", "1,800"), ("longer", "7")], numbers=(1,)) == [
        "| What   |     n |",
        "| ------ | ----: |",
        "| a      | 1,800 |",
        "| longer |     7 |",
        "",
    ]
