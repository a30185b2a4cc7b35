"""From a request to the stream of what models write: one request at a time, each ended when nobody reads it any more."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from cefr_batch.config.schema import Level
from cefr_batch.data.asked import MOST_WORDS, asked_words
from cefr_batch.data.io import unusable_character
from cefr_batch.errors import CefrBatchError
from cefr_batch.i18n.language import N_, Language
from cefr_batch.serve.answers import Event, GrowingAnswer
from cefr_batch.serve.requests import PageRequest
from cefr_batch.serve.writers import Draw, Question, Writer

log = logging.getLogger(__name__)

LOWEST_LEVEL = Level.A1

INTERNAL = N_("Something went wrong here; the terminal in which the server runs shows what.")
NO_WORDS = N_("Give 1 to {most} words, separated by commas or one per line (there are {n}).")
NO_VOICE = N_("Choose at least one model.")
BAD_CHARACTER = N_("The words contain the control or broken character {character}; remove it.")
CONTROL_TOKEN = N_("The words contain {token}, which a model would take for a control token; remove it.")


class DrawRequest(PageRequest):
    """How tokens are drawn at random."""

    temperature: Annotated[float, Field(gt=0, le=10)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]


class WriteRequest(PageRequest):
    """What the page asks for: ``voices`` are places in ``Writer.voices``; without ``draw`` greedily."""

    words: Annotated[str, Field(max_length=20_000)]
    voices: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=100)]
    draw: DrawRequest | None = None


class Column(BaseModel):
    """A column of the page's table: who writes it, and for which level."""

    name: str
    level: str
    trained: bool


class Began(Event):
    """The answers are being written."""

    kind: Literal["began"] = "began"
    words: list[str]
    columns: list[Column]


class Waiting(Event):
    """Others have asked before; so many requests come first."""

    kind: Literal["waiting"] = "waiting"
    before: int


class Failed(Event):
    """Nothing more comes, and why, in the reader's language where it is the request's fault."""

    kind: Literal["failed"] = "failed"
    message: str


class _NobodyReads(Exception):
    """Ends a generation."""


class Refused(Exception):
    """A request that cannot be met; its text is for the reader."""


class Writing:
    """A writer for many readers. Requests wait for each other: a second batch at once would make both slower."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._active: set[threading.Event] = set()
        self._closed = False

    @property
    def active(self) -> int:
        """How many requests are being answered or wait."""
        return len(self._active)

    def warm_up(self) -> None:
        """Have the first answer need nothing that is yet to be loaded: requests wait until it is. Does not block."""
        self._thread.submit(_warm_up, self.writer)

    def close(self) -> None:
        """End what is being written, and refuse what comes. Does not block; may be called from a signal's handler."""
        self._closed = True
        for stop in list(self._active):
            stop.set()

    def check(self, request: WriteRequest, t: Language) -> list[str]:
        """The words of a request. Raises ``Refused``."""
        words = asked_words(request.words)
        if not 1 <= len(words) <= MOST_WORDS:
            raise Refused(t.text(NO_WORDS, most=t.count(MOST_WORDS), n=t.count(len(words))))
        if not request.voices or max(request.voices) >= len(self.writer.voices):
            raise Refused(t.text(NO_VOICE))
        if character := unusable_character(words):
            raise Refused(t.text(BAD_CHARACTER, character=character))
        if token := self.writer.control_token(words):
            raise Refused(t.text(CONTROL_TOKEN, token=token))
        return words

    async def stream(self, request: WriteRequest, words: Sequence[str], t: Language) -> AsyncIterator[str]:
        """The events, as lines of JSON, until all answers are written. Closing the iterator ends the generation."""
        loop, events, stop = asyncio.get_running_loop(), asyncio.Queue[Event | None](), threading.Event()

        def tell(event: Event | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        if self._active:
            yield Waiting(before=len(self._active)).line()
        self._active.add(stop)
        try:
            if self._closed:
                return
            self._thread.submit(self._answer, request, words, t, tell, stop)
            while (event := await events.get()) is not None:
                yield event.line()
        finally:
            stop.set()  # the thread notices it at the next token
            self._active.discard(stop)

    def _answer(
        self,
        request: WriteRequest,
        words: Sequence[str],
        t: Language,
        tell: Callable[[Event | None], None],
        stop: threading.Event,
    ) -> None:
        try:
            if not stop.is_set():
                _write(self.writer, request, words, t, tell, stop)
        except _NobodyReads:
            pass
        except CefrBatchError as exc:
            tell(Failed(message=str(exc)))
        except Exception:
            log.exception("a request could not be answered")
            tell(Failed(message=t.text(INTERNAL)))
        finally:
            tell(None)


def _warm_up(writer: Writer) -> None:
    """Have a token written, and a sentence measured."""

    def grown(_number: int, _text: str, _end: bool) -> None:
        raise _NobodyReads

    with suppress(_NobodyReads, CefrBatchError):  # whoever asks is told of an error
        list(GrowingAnswer(0, ["travel"], LOWEST_LEVEL, Language("en")).grown("1. I travel.", ended=True))
        writer.write(_questions(writer, range(len(writer.voices))), ["travel"], None, grown)


def _write(
    writer: Writer,
    request: WriteRequest,
    words: Sequence[str],
    t: Language,
    tell: Callable[[Event | None], None],
    stop: threading.Event,
) -> None:
    """Blocks until everything is written and told."""
    voices = writer.voices
    questions = _questions(writer, request.voices)
    columns = [(voices[question.voice], question.level) for question in questions]
    tell(
        Began(
            words=list(words),
            columns=[
                Column(name=voice.name, level=level.value, trained=voice.level is not None) for voice, level in columns
            ],
        )
    )
    answers = [GrowingAnswer(n, words, level, t) for n, (_, level) in enumerate(columns)]
    ended: set[int] = set()

    def grown(number: int, text: str, end: bool) -> None:
        if stop.is_set():
            raise _NobodyReads
        if number in ended:
            return
        for event in answers[number].grown(text, end):
            tell(event)
        if end:
            ended.add(number)
            for event in answers[number].end(cut=False):
                tell(event)

    draw = Draw(request.draw.temperature, request.draw.top_p, request.draw.seed) if request.draw else None
    writer.write(questions, words, draw, grown)
    for number in sorted(set(range(len(answers))) - ended):
        for event in answers[number].end(cut=True):
            tell(event)


def _questions(writer: Writer, chosen: Sequence[int]) -> list[Question]:
    """What each voice is asked, in the page's order. A model that was not trained is asked for the first level of those that
    were."""
    places = sorted(set(chosen))
    levels = [level for place in places if (level := writer.voices[place].level)]
    first = levels[0] if levels else LOWEST_LEVEL
    return [Question(place, writer.voices[place].level or first) for place in places]
