"""Every message of the report is in every catalogue, with the same values and mark-up in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from babel.messages.extract import extract_from_dir

from cefr_batch.report import language
from cefr_batch.report.document import Code, Strong, Text, filled, plain_text
from cefr_batch.report.language import LANGUAGES, Language, catalogue

SOURCES = Path(language.__file__).parent
TRANSLATED = [code for code in LANGUAGES if code != "en"]


def written() -> set[str]:
    found = extract_from_dir(str(SOURCES), [("**.py", "python")], keywords={"t": None, "N_": None})
    return {str(message) for _, _, message, _, _ in found}


def test_there_is_a_catalogue_for_each_language_and_no_other() -> None:
    assert TRANSLATED
    assert sorted(path.stem for path in (SOURCES / "locale").iterdir()) == sorted(TRANSLATED)


@pytest.mark.parametrize("code", TRANSLATED)
def test_a_catalogue_has_every_message_and_nothing_else(code: str) -> None:
    messages = written()
    assert len(messages) > 200
    assert {str(message.id) for message in catalogue(code) if message.id} == messages
    assert [message.id for message in catalogue(code) if message.id and (not message.string or message.fuzzy)] == []


@pytest.mark.parametrize("code", TRANSLATED)
def test_a_translation_has_the_same_values_and_mark_up(code: str) -> None:
    wrong = [m.id for m in catalogue(code) if m.id and values(str(m.id)) != values(str(m.string))]
    assert wrong == []


def values(message: str) -> tuple[set[str], set[str], int]:
    return set(re.findall(r"\{\w+\}", message)), set(re.findall(r"`[^`]*`", message)), message.count("**")


def test_a_value_stays_text_whatever_is_in_it() -> None:
    evil = "**bold** `code` {other}"
    assert filled("{a} **{a}** `x {a}`", {"a": evil}) == (
        Text(evil),
        Text(" "),
        Strong((Text(evil),)),
        Text(" "),
        Code(f"x {evil}"),
    )


def test_a_message_without_a_translation_is_english() -> None:
    assert plain_text(Language("tr")("never written {n}", n="7")) == "never written 7"


def test_a_missing_value_is_a_bug_not_a_gap() -> None:
    with pytest.raises(KeyError):
        Language("en")("{n} tokens")
