"""Near sentences are those of the definition, in plain code (``support.near_by_definition``); the search misses none of them
and adds none."""

from __future__ import annotations

import random
import unicodedata
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.near_by_definition import near
from support.published import published

from cefr_batch.config.schema import Level
from cefr_batch.data.examples import read_examples, sentences_in
from cefr_batch.data.near_duplicates import NearDuplicates, comparable, groups, is_near
from cefr_batch.data.pairs import read_pairs

# Few letters and lengths around multiples of nine and ten, so that many are near each other.
TEXT = st.text("ab ", min_size=0, max_size=45)


@given(st.lists(TEXT, max_size=6), TEXT)
@settings(deadline=None, max_examples=100)
def test_the_search_finds_what_the_definition_says(sentences: list[str], asked: str) -> None:
    known = NearDuplicates(sentences)
    expected = {comparable(one) for one in sentences if near(asked, one)}
    assert {comparable(found) for found in known.near(asked)} == expected
    assert (asked in known) == bool(expected)
    assert all(is_near(asked, one) == near(asked, one) for one in sentences)


@given(
    st.text("abcdefgh ", min_size=1, max_size=120), st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from("abX-")))
)
@settings(deadline=None, max_examples=100)
def test_an_edited_sentence_is_found_where_it_is_near_enough(text: str, changes: list[tuple[int, str]]) -> None:
    """``-`` leaves a character out, ``X`` puts one in, another letter replaces one."""
    changed = text
    for number, what in changes[:14]:
        at = number % (len(changed) + 1)
        changed = changed[:at] + what.replace("-", "") + changed[at + (what != "X") :]
    for one, other in ((text, changed), (changed, text)):
        assert (one in NearDuplicates([other])) == near(one, other)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("My favorite color is blue.", "my favourite color is blue", True),
        ("It's nine o’clock — hurry up!", "Its nine o'clock: hurry up.", True),
        ("Caf\u00e9 au lait is nice", "Cafe\u0301 au lait is nice", True),
        ("a well-known man", "A well known man!", True),
        ("I like cats.", "I like dogs.", False),
        ("I eat a sandwich for lunch.", "I make a sandwich for lunch.", False),
        ("Go home", "Go hone", False),  # fewer than ten characters: only the same
        ("...", "!!!", False),
        ("", "", False),
    ],
)
def test_what_counts_as_near(one: str, other: str, expected: bool) -> None:
    assert near(one, other) is expected
    assert is_near(one, other) is expected
    assert (one in NearDuplicates([other])) is expected


@given(st.text())
def test_comparable_texts_stay_as_they_are(text: str) -> None:
    assert comparable(comparable(text)) == comparable(text)
    assert all(c == " " or unicodedata.category(c)[0] in "LNM" for c in comparable(text))


@given(st.lists(TEXT, max_size=7))
@settings(deadline=None)
def test_groups_keep_near_sentences_together_and_no_others(sentences: list[str]) -> None:
    """Against the connected components of all pairs, found by merging sets."""
    parts = [{sentence} for sentence in dict.fromkeys(sentences)]
    for one, other in combinations(dict.fromkeys(sentences), 2):
        if near(one, other):
            first, second = (next(part for part in parts if text in part) for text in (one, other))
            if first is not second:
                parts.remove(second)
                first |= second
    found = groups(sentences)
    assert list(found) == list(dict.fromkeys(sentences))
    for part in parts:
        assert {found[sentence] for sentence in part} == {min(part, key=sentences.index)}


def test_near_pairs_of_published_sentences_are_those_that_a_comparison_of_all_finds() -> None:
    files = [published(f"training_data_a1_list_format_{side}.json") for side in ("train", "eval")]
    sentences = sorted({s for file in files for example in read_examples(file) for s in sentences_in(example)})
    chosen = random.Random(1).sample(sentences, 60) + [s for s in sentences if "apples in" in s]
    known = NearDuplicates(chosen)
    pairs = {tuple(sorted((one, other))) for one in chosen for other in known.near(one) if one != other}
    by_text = {comparable(one): one for one in reversed(chosen)}
    expected = {
        tuple(sorted((one, other)))
        for one, other in combinations(by_text.values(), 2)
        if abs(len(one) - len(other)) < 20 and near(one, other)
    }
    assert pairs == expected
    assert len(pairs) > 10


def test_no_two_sentences_of_the_starter_corpus_are_near() -> None:
    for level in Level:
        sentences = {pair.sentence for pair in read_pairs("starter", level)}
        assert len(set(groups(sentences).values())) == len(sentences)
