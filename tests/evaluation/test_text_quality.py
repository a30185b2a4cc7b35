"""Must show: what is counted in models' answers is right on answers made for it, and nothing they write breaks it."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.near_by_definition import near_any
from support.published import published

from cefr_batch.config.schema import Level
from cefr_batch.data.examples import Example, pairs_in, read_examples, sentence_spans, sentences_in
from cefr_batch.data.pairs import read_pairs
from cefr_batch.data.stats import sentences_of
from cefr_batch.evaluation.text_quality import Answer, quality, readability_grade, uses, word_level
from cefr_batch.records.texts import Quality

GOOD = "1. I travel by train.\n2. She decided to stay.\n3. The children are here."
WORDS = ("travel", "decide", "child")

LINE = st.one_of(
    st.text(max_size=30),
    st.from_regex(r"\s{0,2}[0-9]{0,12}[.)] {0,2}[^\n]{0,20}", fullmatch=True),
    st.sampled_from(
        ["1. ", "2.", "**1.** A.", "١. واحد", "9" * 5000 + ". big", "1. \x00\ud800", "```", "1) I’m here."]
    ),
)
TEXT = st.lists(LINE, max_size=12).map("\n".join)
ASKED = st.lists(st.text(max_size=8), max_size=4).map(tuple)


@pytest.mark.slow
@given(st.lists(st.builds(Answer, ASKED, TEXT), max_size=4), st.sets(LINE, max_size=3), st.sampled_from(Level))
@settings(deadline=None, max_examples=300)
def test_whatever_a_model_writes_is_measured(answers: list[Answer], trained: set[str], level: Level) -> None:
    found = quality(answers, trained, level)
    assert found.sentences == sum(len(answer.sentences) for answer in answers)
    for name in Quality.model_fields:
        value = getattr(found, name)
        if name.endswith("_percent") and value is not None:
            assert 0 <= value <= 100, name


@given(TEXT)
@settings(deadline=None)
def test_spans_are_where_the_sentences_stand(output: str) -> None:
    example = Example("", "", output)
    assert [output[begin:end] for begin, end in sentence_spans(example)] == sentences_in(example)


@given(st.lists(st.from_regex(r"[A-Z][a-z ]{0,20}[a-z]\.", fullmatch=True), min_size=1, max_size=10))
def test_an_answer_as_it_was_trained_is_well_formed(sentences: list[str]) -> None:
    text = "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1))
    answer = Answer(("word",) * len(sentences), text)
    assert answer.sentences == sentences
    assert answer.is_well_formed()
    assert not Answer(("word",) * (len(sentences) + 1), text).is_well_formed()


@pytest.mark.parametrize(
    ("text", "well_formed", "used"),
    [
        (GOOD, True, 3),
        (f"\n{GOOD}\n\n", True, 3),
        (GOOD.replace(".", ")", 1), True, 3),
        (f"Here you are:\n{GOOD}", False, 3),
        (f"{GOOD}\n4. One more.", False, 3),
        (GOOD.replace("\n2. She decided to stay.", ""), False, 2),
        ("2. She decided to stay.\n1. I travel by train.\n3. The children are here.", False, 3),
        ("1. She decided to stay.\n2. I travel by train.\n3. The children are here.", True, 1),
        ("1.\n2. She decided to stay.\n3. The children are here.", False, 2),
        ("", False, 0),
    ],
)
def test_the_form_and_the_words_of_an_answer(text: str, well_formed: bool, used: int) -> None:
    answer = Answer(WORDS, text)
    assert (answer.is_well_formed(), len(answer.words) - len(answer.unused())) == (well_formed, used)


@pytest.mark.parametrize(
    ("sentence", "word"),
    [
        ("They were studying.", "study"),
        ("He wrote it.", "write"),
        ("The children’s toys", "child"),
        ("Two MICE!", "mouse"),
        ("a well-known man", "know"),
        ("I like ice creams.", "ice cream"),
        ("It is five o'clock.", "o’clock"),
        ("She was happier.", "happy"),
    ],
)
def test_inflected_forms_count_as_the_word(sentence: str, word: str) -> None:
    assert uses(sentence, word)


@pytest.mark.parametrize(
    ("sentence", "word"),
    [("They are usually here.", "usual"), ("Hello.", "ice cream"), ("an icy road", "ice"), ("Anything", ""), ("", "a")],
)
def test_other_words_do_not(sentence: str, word: str) -> None:
    assert not uses(sentence, word)


@pytest.mark.parametrize(("level", "missing"), [("a1", 6), ("a2", 6), ("b1", 12)])
def test_the_published_sentences_use_their_words_but_for_derived_ones(level: str, missing: int) -> None:
    """4,000 sentences a level; those without their word have another one (``usually``, ``lifeguard``) or none."""
    pairs = {
        pair
        for side in ("train", "eval")
        for example in read_examples(published(f"training_data_{level}_list_format_{side}.json"))
        for pair in pairs_in(example)
    }
    assert len(pairs) > 4000
    assert sum(not uses(pair.sentence, pair.word) for pair in pairs) == missing


def test_counts_over_several_answers() -> None:
    again = "1. I travel by train.\n2. No.\n3. Xyzzy plugh ubiquitous."
    found = quality([Answer(WORDS, GOOD), Answer(WORDS, again, cut=True)], {"I travel by train."}, Level.B1)
    assert found.cut_percent == 50
    assert (found.answers, found.sentences) == (2, 6)
    assert found.well_formed_percent == 100
    assert found.words_used_percent == pytest.approx(100 * 4 / 6)
    assert found.copied_percent == pytest.approx(100 * 2 / 6)
    assert found.duplicate_percent == pytest.approx(100 * 1 / 6)
    assert found.words_per_sentence == (4 + 4 + 4 + 4 + 1 + 3) / 6
    assert found.unknown_words_percent == pytest.approx(100 * 2 / 20)
    assert found.at_or_below_level_percent == pytest.approx(100 * 17 / 18)  # all but ubiquitous


@pytest.mark.slow
def test_variety_and_near_copies_are_those_of_plain_counts() -> None:
    """Of the sentences of all levels' starter corpora as if models had written them, the last one twice."""
    written = [pair.sentence for level in Level for pair in read_pairs("starter", level)[:40]]
    written += [written[-1], "…"]
    trained = [sentence.replace("e", "i", 2) for sentence in written[::7]] + written[::11]
    answers = [Answer((), "\n".join(f"{n}. {text}" for n, text in enumerate(written[k::3], 1))) for k in range(3)]
    found = quality(answers, trained, Level.B1)
    words = [
        re.findall(r"[a-z]+(?:'[a-z]+)*", one.replace("’", "'").lower()) for k in range(3) for one in written[k::3]
    ]
    flat, pairs, opened, repeated = [w for one in words for w in one], [], set(), 0
    for one in words:
        pairs += list(itertools.pairwise(one))
        repeated += bool(one) and tuple(one[:3]) in opened
        opened.add(tuple(one[:3]))
    near = sum(near_any(one, trained) for one in written)
    assert 0 < repeated < 20
    assert len(set(written) & set(trained)) < near < len(written)
    expected = (
        100 * near / len(written),
        100 * len(set(flat)) / len(flat),
        100 * len(set(pairs)) / len(pairs),
        100 * repeated / sum(map(bool, words)),
    )
    assert (
        found.near_copied_percent,
        found.distinct_words_percent,
        found.distinct_word_pairs_percent,
        found.repeated_openings_percent,
    ) == pytest.approx(expected, abs=1e-9)


def test_nothing_is_measured_where_there_is_nothing() -> None:
    found = quality([], set(), Level.A1)
    assert (found.answers, found.sentences) == (0, 0)
    assert all(getattr(found, name) is None for name in list(Quality.model_fields)[2:])


def test_words_have_the_level_of_their_form_or_of_their_lemma() -> None:
    assert [word_level(word) for word in ("the", "decide", "ubiquitous", "xyzzy")] == [1, 2, 6, None]
    assert word_level("poet's") == word_level("poet") is not None


def test_readability_is_the_formula_as_published() -> None:
    sentences = ["The cat sat.", "It was 10 o'clock."]
    # 3 and 4 words; 9 and 13 letters and digits
    assert readability_grade(sentences) == pytest.approx(4.71 * 22 / 7 + 0.5 * 7 / 2 - 21.43)
    assert readability_grade(["", "…"]) is not None
    assert readability_grade([""]) is None


def test_the_starter_corpus_becomes_harder_with_the_level() -> None:
    """Of levels that differ by two, both figures must tell the easier one."""
    grades, shares = [], []
    for level in Level:
        pairs = read_pairs("starter", level)
        text = "\n".join(f"{number}. {pair.sentence}" for number, pair in enumerate(pairs, 1))
        found = quality([Answer((), text)], set(), Level.A2)
        assert found.readability_grade is not None
        assert found.at_or_below_level_percent is not None
        grades.append(found.readability_grade)
        shares.append(found.at_or_below_level_percent)
    print(grades, shares)
    assert all(easy < hard for easy, hard in zip(grades, grades[2:], strict=False))
    assert all(easy > hard for easy, hard in zip(shares, shares[2:], strict=False))


def test_trained_sentences_are_compared_word_for_word() -> None:
    assert sentences_of([Example("", "", GOOD)]) == {
        "I travel by train.",
        "She decided to stay.",
        "The children are here.",
    }
