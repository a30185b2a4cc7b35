"""Text from anywhere stays text wherever it is placed into Markdown."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from cefr_batch.report.markdown import Markdown, ReportLanguage, code, escaped, joined, plain, table_lines

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
    header, _, left, right, *more = cells("\n".join(table_lines(("x", "y"), [(raw, "end")])))
    assert not more
    assert shown(left) == plain(raw)
    assert shown(right) == "end"
    (line,) = cells(f"Reason: {escaped(raw)}.")[:1] if raw else cells("Reason: .")
    assert shown(line) == f"Reason: {plain(raw)}."
    assert shown(header) == "x"


@given(AWKWARD | st.text(max_size=30))
@example("`")
@example("a|b")
@example("x\\")
def test_code_shows_as_it_is_in_a_table(raw: str) -> None:
    *_, cell, end = cells("\n".join(table_lines(("x", "y"), [(code(raw), "end")])))
    children = cell.children or []
    assert {child.type for child in children} <= {"text", "text_special", "code_inline"}
    assert "".join(child.content for child in children) == plain(raw)
    assert shown(end) == "end"


@given(st.text(max_size=50))
def test_plain_text_is_one_printable_line(raw: str) -> None:
    assert plain(raw).isprintable()


def test_a_table_is_aligned_as_plain_text() -> None:
    assert table_lines(("What", "n"), [("a", "1,800"), ("longer", "7")], numbers=(1,)) == [
        "| What   |     n |",
        "| ------ | ----: |",
        "| a      | 1,800 |",
        "| longer |     7 |",
    ]


EVIL = "**bold** `code` {other} [x](y)"


def test_a_value_in_a_message_stays_text_and_the_message_keeps_its_mark_up() -> None:
    t = ReportLanguage("en")
    assert t("{a} **{a}**", a=EVIL) == f"{escaped(EVIL)} **{escaped(EVIL)}**"
    assert MARKDOWN.render(t("**{a}**", a=EVIL)) == f"<p><strong>{EVIL}</strong></p>\n"


def test_what_is_markdown_is_not_escaped_again() -> None:
    bold = Markdown("**{}**").format("a*b")
    assert bold == "**a\\*b**"
    assert Markdown("{}: {}").format(bold, "c|d") == "**a\\*b**: c\\|d"
    assert joined([bold, "e_f_ g"]) == "**a\\*b**, e_f\\_ g"
