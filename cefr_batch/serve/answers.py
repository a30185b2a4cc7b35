"""What the page is told of an answer while it is written: its sentences, word by word, with what is known of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cefr_batch.config.schema import Level
from cefr_batch.data.examples import numbered_lines
from cefr_batch.evaluation.level_estimator import level_estimator
from cefr_batch.evaluation.text_quality import Answer, is_form_of, uses, word_level, word_spans
from cefr_batch.i18n.language import Language
from cefr_batch.records.level_figures import SCALE


class Event(BaseModel):
    """One line of the stream that the page reads."""

    model_config = ConfigDict(frozen=True)

    kind: str

    def line(self) -> str:
        """As JSON, with a line break."""
        return self.model_dump_json() + "\n"


class Piece(BaseModel):
    """A part of a sentence. ``asked``: it is the word that was asked for; ``above``: its level, where that is higher than
    the answer's."""

    text: str
    asked: bool = False
    above: str = ""


class Beginning(Event):
    """A sentence that is being written; ``row``: the place of its word among those asked for."""

    kind: Literal["beginning"] = "beginning"
    column: int
    row: int
    text: str


class Finished(Event):
    """A sentence. ``estimate`` is its estimated level in the reader's language, with that level's name; empty for a text
    without words."""

    kind: Literal["sentence"] = "sentence"
    column: int
    row: int
    text: str
    pieces: list[Piece]
    uses_word: bool
    level: str
    estimate: str


class Ended(Event):
    """An answer. ``kept``: it is a numbered sentence for each word and nothing else; ``cut``: it had no room to end."""

    kind: Literal["answer"] = "answer"
    column: int
    text: str
    kept: bool
    cut: bool
    level: str
    estimate: str


@dataclass
class GrowingAnswer:
    """Follows one answer, and tells what is new of it."""

    column: int
    words: Sequence[str]
    level: Level
    t: Language
    _text: str = ""
    _told: dict[int, Event] = field(default_factory=dict)

    def grown(self, text: str, ended: bool) -> Iterator[Event]:
        """What is new now that the answer is this text."""
        if text == self._text and not ended:
            return
        self._text = text
        lines = numbered_lines(text)
        for place, (number, sentence) in enumerate(lines):
            is_first = number not in [earlier for earlier, _ in lines[:place]]
            if is_first and sentence and number <= len(self.words):
                whole = ended or place < len(lines) - 1
                yield from self._news(number - 1, sentence, whole)

    def _news(self, row: int, sentence: str, whole: bool) -> Iterator[Event]:
        if isinstance(self._told.get(row), Finished):
            return
        told = self._finished(row, sentence) if whole else Beginning(column=self.column, row=row, text=sentence)
        if told != self._told.get(row):
            self._told[row] = told
            yield told

    def _finished(self, row: int, sentence: str) -> Finished:
        word = self.words[row]
        used = uses(sentence, word)
        level, estimate = estimated([sentence], self.t)
        return Finished(
            column=self.column,
            row=row,
            text=sentence,
            pieces=pieces(sentence, word if used else "", self.level),
            uses_word=used,
            level=level,
            estimate=estimate,
        )

    def end(self, *, cut: bool) -> Iterator[Event]:
        """What is left to tell when the model writes no more; ``cut``: since it had no room."""
        yield from self.grown(self._text, ended=True)
        answer = Answer(tuple(self.words), self._text)
        level, estimate = estimated(answer.sentences, self.t)
        yield Ended(
            column=self.column,
            text=self._text.strip(),
            kept=answer.is_well_formed(),
            cut=cut,
            level=level,
            estimate=estimate,
        )


def pieces(sentence: str, word: str, level: Level) -> list[Piece]:
    """The sentence, cut where a word is the one asked for (in any form) or of a higher level."""
    highest, found, end = list(Level).index(level) + 1, list[Piece](), 0
    for start, stop in word_spans(sentence):
        token = sentence[start:stop]
        asked, of_word = is_form_of(token, word), word_level(token.replace("’", "'").casefold())
        above = SCALE[of_word - 1] if of_word is not None and of_word > highest else ""
        if asked or above:
            found += [Piece(text=sentence[end:start]), Piece(text=token, asked=asked, above=above)]
            end = stop
    return [piece for piece in (*found, Piece(text=sentence[end:])) if piece.text]


def estimated(sentences: Sequence[str], t: Language) -> tuple[str, str]:
    """The mean estimated level of sentences: the nearest level's name, and the number; both empty without a word."""
    estimates = level_estimator().estimate(sentences)
    known = estimates[estimates == estimates]  # not NaN
    if not known.size:
        return "", ""
    mean = float(known.mean())
    return SCALE[round(mean) - 1], t.figure(mean, 1)
