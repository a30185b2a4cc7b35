"""Who can write sentences for the page: the interface that the page uses, and the models of runs behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cefr_batch.config.schema import Level, RunSpec
from cefr_batch.data import Example, PromptFormat, prompt_format
from cefr_batch.data.asked import MOST_WORDS, TOKENS_PER_WORD
from cefr_batch.data.build import instruction_for
from cefr_batch.data.special_tokens import SpecialTokens, any_of
from cefr_batch.errors import CefrBatchError, UsageError
from cefr_batch.export.gguf import INSTALL
from cefr_batch.export.stored import fetch_gguf
from cefr_batch.models.libraries import training_libraries
from cefr_batch.models.resolve import resolve_model
from cefr_batch.records import layout
from cefr_batch.runner import Session
from cefr_batch.runner.artifacts import Progress, no_progress
from cefr_batch.runner.submission import read_spec

if TYPE_CHECKING:
    from cefr_batch.export.llama_cpp import LlamaCpp
    from cefr_batch.models.adapters import AdaptedModel

# Called with the question's number, its answer so far, and whether the answer has ended.
TextCallback = Callable[[int, str, bool], None]

_CONTEXT = (TOKENS_PER_WORD + 10) * MOST_WORDS  # of GGUF files: each word has a line of the prompt and of the answer


@dataclass(frozen=True)
class Voice:
    """A model that writes. ``level``: the one that it was trained for; None: it was not trained. ``words``: so many at a
    time, in training; None: not known, or not always as many."""

    name: str
    level: Level | None = None
    words: int | None = None


@dataclass(frozen=True)
class Draw:
    """Tokens are drawn at random, as ``evaluation.generation.Sampling`` does."""

    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True)
class Question:
    """What a voice, by its place in ``Writer.voices``, is asked: a sentence of a level for each word."""

    voice: int
    level: Level


class Writer(Protocol):
    """Models in memory. Its methods block, and are called by one thread at a time."""

    @property
    def voices(self) -> Sequence[Voice]:
        """Who can write."""

    def control_token(self, words: Sequence[str]) -> str | None:
        """A text in the words that a model would take for a token of its own, such as the end of a turn."""

    def write(
        self, questions: Sequence[Question], words: Sequence[str], draw: Draw | None, on_text: TextCallback
    ) -> None:
        """Answer all questions at once, greedily without ``draw``. ``on_text`` is called as the answers grow, and ends it
        all by raising. Raises ``CefrBatchError`` where a model cannot answer."""


@dataclass(frozen=True)
class _Run:
    name: str
    spec: RunSpec
    adapter: Path
    prompts: PromptFormat


class RunsWriter:
    """The models of complete runs: each pretrained model is in memory once, with an adapter for each of its runs.

    The answers are computed in fp32, as in a run's own evaluation, but with the adapter unmerged: runs share the weights.
    """

    def __init__(self, session: Session, runs: Sequence[str], progress: Progress = no_progress) -> None:
        """Fetch what these runs need and load it; takes seconds, or minutes where a model has to be downloaded. Raises
        ``CefrBatchError``."""
        bases: dict[Path, list[_Run]] = {}
        for run in runs:
            base, found = _fetched(session, run, progress)
            bases.setdefault(base, []).append(found)
        self._tokens = [SpecialTokens.read(base) for base in bases]
        with training_libraries():
            self._models = {base: _loaded(base, found) for base, found in bases.items()}
        ordered = {run.name: (base, run) for base, found in bases.items() for run in found}
        self._runs: list[tuple[Path, _Run | None]] = [ordered[run] for run in runs]
        self._runs += [(base, None) for base in bases]
        self._first = {base: found[0] for base, found in bases.items()}  # the untrained model is asked as this one is

    @property
    def voices(self) -> Sequence[Voice]:
        """The runs in their order, then each pretrained model without an adapter."""
        return [self._voice(base, run) for base, run in self._runs]

    def _voice(self, base: Path, run: _Run | None) -> Voice:
        return _trained(run.name, run.spec) if run else Voice(self._first[base].spec.model.name)

    def control_token(self, words: Sequence[str]) -> str | None:
        """See ``Writer``."""
        text = "\n".join(words)
        return next((found for tokens in self._tokens if (found := tokens.in_text(text))), None)

    def write(
        self, questions: Sequence[Question], words: Sequence[str], draw: Draw | None, on_text: TextCallback
    ) -> None:
        """See ``Writer``. One batch for each pretrained model and way to ask, one after the other."""
        batches: dict[tuple[Path, str], dict[int, Question]] = {}
        for number, question in enumerate(questions):
            base, run = self._runs[question.voice]
            way = (run or self._first[base]).spec.model.prompt
            batches.setdefault((base, way), {})[number] = question
        for (base, _), batch in batches.items():
            self._write(base, batch, words, draw, on_text)

    def _write(
        self,
        base: Path,
        questions: dict[int, Question],
        words: Sequence[str],
        draw: Draw | None,
        on_text: TextCallback,
    ) -> None:
        from cefr_batch.evaluation.generation import Sampling, Text, stream, too_long

        loaded, numbers = self._models[base], list(questions)
        runs = [self._runs[question.voice][1] for question in questions.values()]
        prompts = (runs[0] or self._first[base]).prompts
        asked = [Example(instruction_for(words, question.level), "", "") for question in questions.values()]
        limit = TOKENS_PER_WORD * len(words)
        if too_long(loaded.model, loaded.tokenizer, prompts, asked, limit):
            raise _too_many(words, self._first[base].spec.model.name)

        def told(texts: list[Text]) -> None:
            for number, text in zip(numbers, texts, strict=True):
                on_text(number, text.text, text.ended)

        with loaded.adapted([run.name if run else None for run in runs]):
            stream(
                loaded.model,
                loaded.tokenizer,
                prompts,
                asked,
                max_new_tokens=limit,
                sampling=Sampling(draw.temperature, draw.top_p, draw.seed) if draw else None,
                on_token=told,
            )


class GgufWriter:
    """The models of complete runs as their stored GGUF exports, which llama.cpp runs: neither torch nor the pretrained model
    is needed, and the model that was not trained is not among the voices."""

    def __init__(self, session: Session, runs: Sequence[str], progress: Progress = no_progress) -> None:
        """Fetch and load each run's most exact export. Raises ``CefrBatchError``."""
        load = _llama_cpp()
        files = [fetch_gguf(session.store, run, progress) for run in runs]
        self._models = [load(file) for file in files]
        self.voices: Sequence[Voice] = [_trained(run, read_spec(session.store, run)) for run in runs]

    def control_token(self, words: Sequence[str]) -> str | None:
        """See ``Writer``."""
        text = "\n".join(words)
        found = (any_of(model.control).search(text) for model in self._models)
        return next((match[0] for match in found if match), None)

    def write(
        self, questions: Sequence[Question], words: Sequence[str], draw: Draw | None, on_text: TextCallback
    ) -> None:
        """See ``Writer``. The models write a token each in turn."""
        answers = {number: self._answer(question, words, draw) for number, question in enumerate(questions)}
        while answers:
            for number, answer in list(answers.items()):
                try:
                    on_text(number, *next(answer))
                except StopIteration:
                    del answers[number]

    def _answer(self, question: Question, words: Sequence[str], draw: Draw | None) -> Iterator[tuple[str, bool]]:
        model, limit = self._models[question.voice], TOKENS_PER_WORD * len(words)
        request = instruction_for(words, question.level)
        if len(model.tokens(request)) + limit > model.context:
            raise _too_many(words, self.voices[question.voice].name)
        drawn: dict[str, Any] = (
            {"temperature": draw.temperature, "top_p": draw.top_p, "seed": draw.seed} if draw else {}
        )
        return model.stream(request, limit, **drawn)


def _llama_cpp() -> Callable[[Path], LlamaCpp]:
    """What loads a GGUF file. Raises ``CefrBatchError`` where llama.cpp is not installed."""
    try:
        from cefr_batch.export.llama_cpp import LlamaCpp
    except (ImportError, OSError, RuntimeError) as exc:  # not there, or built for another machine
        raise CefrBatchError(f"--gguf needs llama.cpp, which cannot be used here ({exc}); run: {INSTALL}") from exc

    def load(file: Path) -> LlamaCpp:
        try:
            return LlamaCpp(file, _CONTEXT, looks_beneath=False)
        except ValueError as exc:
            raise CefrBatchError(f"llama.cpp does not load {file.name}: {exc}; export the run again") from exc

    return load


def _trained(run: str, spec: RunSpec) -> Voice:
    of_one_size = spec.data.source is not None
    return Voice(run, spec.level, spec.data.words_per_example if of_one_size else None)


def _too_many(words: Sequence[str], name: str) -> UsageError:
    return UsageError(f"{len(words)} words are more than {name} can read at once; give fewer")


def _fetched(session: Session, run: str, progress: Progress) -> tuple[Path, _Run]:
    """The folder of a run's pretrained model, and the run with its adapter on this machine."""
    adapter = session.artifacts(run, ["adapter"])
    spec = read_spec(adapter.documents, run)
    folder = layout.pulled_cache(session.store.url, run)
    adapter.fetch(folder, progress)
    base = resolve_model(spec.model)
    return base, _Run(run, spec, folder / layout.ADAPTER, prompt_format(spec.model.prompt, base))


def _loaded(base: Path, runs: Sequence[_Run]) -> AdaptedModel:
    from cefr_batch.models.adapters import AdaptedModel

    model = AdaptedModel(base)
    for run in runs:
        model.add(run.name, run.adapter)
    return model
