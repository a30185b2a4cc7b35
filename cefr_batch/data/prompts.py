"""How a run's examples become text: the one place for planning, training, evaluation, generation and export."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal

from typing_extensions import override

from cefr_batch.config.schema import Level
from cefr_batch.data.chat_template import AnswerShape, ChatTemplate, Message, assistant, user
from cefr_batch.data.examples import Example, words_in
from cefr_batch.data.special_tokens import SpecialTokens
from cefr_batch.errors import ChatTemplateError, ModelError

SHOTS = 3  # training examples of a few-shot prompt
_LEVEL_NAMES = {
    Level.A1: "beginner",
    Level.A2: "elementary",
    Level.B1: "intermediate",
    Level.B2: "upper intermediate",
    Level.C1: "advanced",
}


class PromptFormat(ABC):
    """What a model is asked, and how it answers."""

    begins_itself: bool  # the prompt has its begin-of-text token written out, so the tokenizer adds none

    @property
    @abstractmethod
    def answer(self) -> AnswerShape:
        """What stands around the output in a response, and closes it."""

    @abstractmethod
    def prompt(self, example: Example) -> str:
        """All that stands before the response."""

    @abstractmethod
    def request(self, example: Example) -> str:
        """The user's message of which ``as_template`` makes the prompt."""

    @abstractmethod
    def as_template(self, begin: str) -> str:
        """The chat template with which other programs ask the same, from a user's message. ``begin``: what the tokenizer
        would put in front of a text."""

    def text(self, example: Example) -> str:
        """What a model is trained on: the prompt, and the response with what closes it."""
        shape = self.answer
        return f"{self.prompt(example)}{shape.before}{example.output}{shape.after}{shape.end}"


@dataclass(frozen=True)
class AlpacaFormat(PromptFormat):
    """Headings in plain text, the same for every model."""

    tokens: SpecialTokens
    begins_itself = False

    @property
    @override
    def answer(self) -> AnswerShape:
        return AnswerShape("", "", self.tokens.end_of_text)

    @override
    def prompt(self, example: Example) -> str:
        return f"### Instruction:\n{self.request(example)}\n\n### Response:\n"

    @override
    def request(self, example: Example) -> str:
        given = f"\n\n### Input:\n{example.input}" if example.input.strip() else ""
        return f"{example.instruction}{given}"

    @override
    def as_template(self, begin: str) -> str:
        """A system message, which training had none of, stands before the instruction."""
        begin, end = (json.dumps(text, ensure_ascii=False) for text in (begin, self.answer.end))
        return Template(_ALPACA_TEMPLATE).substitute(begin=begin, end=end)


# In one line for each part, and nothing between them: programs differ in which white space they keep.
_ALPACA_TEMPLATE = """\
{{- $begin -}}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- '### Response:\\n' + message['content'] + $end -}}
{%- elif message['role'] == 'system' -%}
{{- '### Instruction:\\n' + message['content'] + '\\n\\n' -}}
{%- elif loop.first or messages[loop.index0 - 1]['role'] != 'system' -%}
{{- '### Instruction:\\n' + message['content'] + '\\n\\n' -}}
{%- else -%}
{{- message['content'] + '\\n\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '### Response:\\n' -}}
{%- endif -%}
"""


@dataclass(frozen=True)
class ChatFormat(PromptFormat):
    """The model's own chat template: an example is a question and its answer."""

    template: ChatTemplate
    begins_itself = True

    @property
    @override
    def answer(self) -> AnswerShape:
        return self.template.answer

    @override
    def prompt(self, example: Example) -> str:
        return self.template.render(self.messages(example), ask=True)

    @override
    def as_template(self, begin: str) -> str:
        return self.template.fixed

    @override
    def request(self, example: Example) -> str:
        return f"{example.instruction}\n\n{example.input}" if example.input.strip() else example.instruction

    def messages(self, example: Example) -> Sequence[Message]:
        """What is said before the model answers."""
        return [user(self.request(example))]


@dataclass(frozen=True)
class PlainWordsFormat(ChatFormat):
    """The same task in plain words, for a model that was not trained for it; ``shots``: examples of it that stand before."""

    level: Level
    shots: Sequence[Example] = ()

    @override
    def messages(self, example: Example) -> Sequence[Message]:
        shown = [message for shot in self.shots for message in (user(self.request(shot)), assistant(shot.output))]
        return [*shown, user(self.request(example))]

    @override
    def request(self, example: Example) -> str:
        """In plain words where it lists words to write sentences for; otherwise as it is."""
        words = words_in(example)
        if not words:
            return super().request(example)
        listed = "\n".join(f"{number}. {word}" for number, word in enumerate(words, 1))
        return (
            "Write one English sentence for each word of this list. Write for learners at CEFR level "
            f"{self.level} ({_LEVEL_NAMES[self.level]}): vocabulary and grammar of this level, neither easier nor harder. "
            "Use the word in its sentence. Number the sentences like the words, one on each line, and write nothing else."
            f"\n\n{listed}"
        )


def prompt_format(kind: Literal["alpaca", "chat"], folder: Path) -> PromptFormat:
    """The format that ``model.prompt`` names, for the model whose tokenizer's files are in a folder.

    Raises ``ModelError`` where it has no end-of-text token or, for ``chat``, no chat template that can be trained with.
    """
    if kind == "alpaca":
        return AlpacaFormat(SpecialTokens.read(folder))
    try:
        return ChatFormat(_usable_template(folder))
    except ChatTemplateError as exc:
        raise ModelError(f"model.prompt: {exc}; set it to alpaca, or choose another model") from exc


def plain_words_format(folder: Path, level: Level, shots: Sequence[Example] = ()) -> PlainWordsFormat:
    """How a model is asked that was not trained. Raises ``ChatTemplateError`` where it has no template of use."""
    return PlainWordsFormat(_usable_template(folder), level, shots)


def _usable_template(folder: Path) -> ChatTemplate:
    template = ChatTemplate.read(folder, SpecialTokens.read(folder))
    template.answer  # noqa: B018 (raises where it cannot be told)
    return template


def shots_of(train: Sequence[Example]) -> list[Example]:
    """The training examples of a few-shot prompt: at the start, a third and two thirds of the data."""
    number = min(SHOTS, len(train))
    return [train[len(train) * shot // number] for shot in range(number)]
