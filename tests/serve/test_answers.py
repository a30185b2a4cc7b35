"""What is told of an answer: which of its words were asked for, which are too hard, and its estimated level."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cefr_batch.config.schema import Level
from cefr_batch.i18n.language import Language
from cefr_batch.serve.answers import Ended, Finished, GrowingAnswer, Piece, estimated, pieces

EN, TR = Language("en"), Language("tr")


def test_the_word_asked_for_and_words_above_the_level_are_cut_out() -> None:
    found = pieces("The children’s governments, of course, decided.", "child", Level.A1)
    assert "".join(piece.text for piece in found) == "The children’s governments, of course, decided."
    assert Piece(text="governments", above="A2") in found or [p.above for p in found if p.text == "governments"] > [""]
    assert not [piece for piece in found if piece.text == "The"]
    assert [piece.text for piece in pieces("We decided to go.", "decide", Level.C1) if piece.asked] == ["decided"]


@given(st.text(max_size=80), st.text(max_size=10), st.sampled_from(Level))
def test_the_pieces_are_the_sentence(sentence: str, word: str, level: Level) -> None:
    found = pieces(sentence, word, level)
    assert "".join(piece.text for piece in found) == sentence
    assert all(piece.text for piece in found)


def test_a_level_is_a_name_and_a_number_as_the_reader_writes_it() -> None:
    level, number = estimated(["The cat is on the mat."], EN)
    assert level in ("A1", "A2")
    assert estimated(["The cat is on the mat."], TR) == (level, number.replace(".", ","))
    assert estimated(["…"], EN) == estimated([], EN) == ("", "")


@given(st.text(alphabet="12. \nabé", max_size=60), st.data())
def test_however_an_answer_grows_the_same_is_told_in_the_end(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    words = ["a", "bé"]
    at_once, grown = (GrowingAnswer(0, words, Level.A1, EN) for _ in range(2))
    whole = [*at_once.grown(text, True), *at_once.end(cut=False)]
    parts = [event for cut in cuts for event in grown.grown(text[:cut], False)]
    parts += [*grown.grown(text, True), *grown.end(cut=False)]
    rows = {event.row for event in parts if isinstance(event, Finished)}
    assert rows == {event.row for event in whole if isinstance(event, Finished)}
    assert len(rows) == len([event for event in parts if isinstance(event, Finished)])
    assert parts[-1] == whole[-1]
    assert isinstance(parts[-1], Ended)


@pytest.mark.parametrize(
    ("text", "kept"),
    [("1. I go.\n2. We see.", True), ("I go.\nWe see.", False), ("1. I go.", False), ("2. We see.\n1. I go.", False)],
)
def test_an_answer_that_is_not_one_sentence_for_each_word_says_so(text: str, kept: bool) -> None:
    answer = GrowingAnswer(0, ["go", "see"], Level.A1, EN)
    *_, last = [*answer.grown(text, True), *answer.end(cut=True)]
    assert isinstance(last, Ended)
    assert (last.kept, last.cut, last.text) == (kept, True, text)
