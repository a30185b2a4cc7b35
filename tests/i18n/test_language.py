"""Every message that readers see is in every catalogue, with the same values and mark-up in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from babel.messages.extract import extract_from_dir

from cefr_batch.i18n import language
from cefr_batch.i18n.language import LANGUAGES, Language, catalogue

ROOM = Path(language.__file__).parent
SOURCES = [ROOM, *(ROOM.parent / room for room in ("report", "human_eval", "serve"))]
METHODS = [("**.py", "python"), ("**.jinja", "jinja2.ext:babel_extract")]
TRANSLATED = [code for code in LANGUAGES if code != "en"]
TURKISH_PAGES = sorted((ROOM.parents[1] / "docs" / "tr").glob("*.md"))


def written() -> set[str]:
    """The messages in the code and the templates."""
    keywords = {"t": None, "text": None, "N_": None}
    return {
        str(message)
        for folder in SOURCES
        for _, _, message, _, _ in extract_from_dir(str(folder), METHODS, keywords=keywords)
    }


def test_there_is_a_catalogue_for_each_language_and_no_other() -> None:
    assert TRANSLATED
    assert sorted(path.stem for path in (ROOM / "locale").iterdir()) == sorted(TRANSLATED)


@pytest.mark.parametrize("code", TRANSLATED)
def test_a_catalogue_has_every_message_and_nothing_else(code: str) -> None:
    messages = written()
    assert len(messages) > 290
    assert {str(message.id) for message in catalogue(code) if message.id} == messages
    assert [message.id for message in catalogue(code) if message.id and (not message.string or message.fuzzy)] == []


@pytest.mark.parametrize("code", TRANSLATED)
def test_a_translation_has_the_same_values_and_mark_up(code: str) -> None:
    wrong = [m.id for m in catalogue(code) if m.id and values(str(m.id)) != values(str(m.string))]
    assert wrong == []


def values(message: str) -> tuple[set[str], set[str], int]:
    return set(re.findall(r"\{\w+\}", message)), set(re.findall(r"`[^`]*`", message)), message.count("**")


def test_no_value_is_filled_into_code_where_it_could_not_be_escaped() -> None:
    assert [message for message in written() if re.search(r"`[^`]*\{[^`]*`", message)] == []


def test_a_message_without_a_translation_is_english() -> None:
    assert Language("tr")("never written {n}", n="7") == "never written 7"


def test_a_missing_value_is_a_bug_not_a_gap() -> None:
    with pytest.raises(KeyError):
        Language("en")("{n} tokens")


# For one thing one word; the first of each is taken.
TERMS = {
    "düzey": "seviye",
    "kelime": "sözcük",
    "tahminî": "kestir",
    "değerlendirici": "değerlendiren",
    "tahmin aracı": "tahminci",
    "token": "belirte",
    "set": "küme",
    "nicemle": "nicelen",
    "terminal": "uçbirim",
    "sayılar": "rakam(lar|ı)",
    "eşli": "eşleştir",
}


@pytest.mark.parametrize(("term", "other"), TERMS.items())
def test_the_turkish_has_one_word_for_one_thing(term: str, other: str) -> None:
    texts = [str(message.string).casefold() for message in catalogue("tr") if message.id]
    pages = [page.read_text(encoding="utf-8").casefold() for page in TURKISH_PAGES]
    assert pages
    assert [text for text in texts if re.search(rf"\b{other}", text)] == []
    assert [found[0] for page in pages for found in re.finditer(rf"^.*\b{other}.*$", page, re.MULTILINE)] == []
    assert any(re.search(rf"\b{term}", text) for text in texts)


@pytest.mark.parametrize(("name", "is_trial"), [("trial", True), ("attempt", False)])
def test_a_trial_of_a_search_and_an_attempt_of_a_job_are_not_called_the_same_in_turkish(
    name: str, is_trial: bool
) -> None:
    texts = {str(message.id): str(message.string).casefold() for message in catalogue("tr") if message.id}
    named = [id_ for id_ in texts if re.search(rf"\b{name}s?\b", id_, re.IGNORECASE)]
    assert named
    assert [id_ for id_ in named if ("deneme" in texts[id_]) is not is_trial] == []


def test_an_interval_in_turkish_is_called_what_it_is() -> None:
    texts = {str(message.id): str(message.string) for message in catalogue("tr") if message.id}
    wanted = [id_ for id_ in texts if re.search("95% (bootstrap )?interval", id_)]
    assert len(wanted) > 15
    assert [id_ for id_ in wanted if not re.search("%95 (bootstrap )?güven aralı[kğ]", texts[id_])] == []


def test_a_difference_in_turkish_has_a_minus_and_no_hyphen() -> None:
    texts = {str(message.id): str(message.string) for message in catalogue("tr") if message.id}
    assert [text for text in texts.values() if re.search(r"\w - \w|(?<![\w/])-\d", text)] == []
    assert [id_ for id_, text in texts.items() if id_.count("−") > text.count("−")] == []
