"""A model's chat template, rendered as transformers' ``apply_chat_template`` does, without transformers.

Templates come with a model, from wherever that is: they run in Jinja's sandbox, where nothing can be changed or imported.
What a template would take from the moment (the date) or from a caller (whether to think first) is fixed, so that training,
evaluation and generation see one text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from typing_extensions import override

from cefr_batch.data.special_tokens import CONFIG, SpecialTokens, read_config
from cefr_batch.errors import ChatTemplateError, ModelError, NoChatTemplate

Message = Mapping[str, str]  # role and content

# What templates of Llama 3.2 take for the date where they are not told it.
TODAY = datetime(2024, 7, 26)  # noqa: DTZ001 (a date alone)
FILE = "chat_template.jinja"
_QUESTION, _ANSWER = "A question?", "1. An answer."  # to see what a template makes of them


def user(content: str) -> Message:
    """What somebody asks."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """What the model answers."""
    return {"role": "assistant", "content": content}


@dataclass(frozen=True)
class AnswerShape:
    """What a template writes around an answer: white space ``before`` and ``after`` it, and the token that closes it
    (``end``): that of the turn's end, or end-of-text where the template writes none."""

    before: str
    after: str
    end: str


@dataclass(frozen=True)
class ChatTemplate:
    """A template, and the special tokens that it may write."""

    source: str
    tokens: SpecialTokens
    where: str  # for messages: the model's folder

    @classmethod
    def read(cls, folder: Path, tokens: SpecialTokens) -> ChatTemplate:
        """Of a folder with a tokenizer. Raises ``NoChatTemplate``, ``ModelError`` for unreadable files."""
        source = _stored(folder)
        if source is None:
            raise NoChatTemplate(f"the tokenizer in {folder} has no chat template")
        return cls(source, tokens, str(folder))

    def render(self, messages: Sequence[Message], *, ask: bool) -> str:
        """The conversation as text; ``ask``: up to where the model's answer begins.

        Raises ``ChatTemplateError`` if the template refuses the conversation, or fails.
        """
        return self._rendered(messages, ask)[0]

    @cached_property
    def answer(self) -> AnswerShape:
        """How an answer stands in a conversation.

        Raises ``ChatTemplateError`` for a template that closes it with no token, or writes it elsewhere than where the
        prompt for it ends: the model would be trained to answer a prompt that it never gets.
        """
        prompt = self.render([user(_QUESTION)], ask=True)
        whole = self.render([user(_QUESTION), assistant(_ANSWER)], ask=False)
        if _QUESTION not in prompt:
            raise self._error("it leaves out the text of a message")
        before, _, rest = whole.removeprefix(prompt).partition(_ANSWER)
        if not whole.startswith(prompt + before + _ANSWER) or before.strip():
            raise self._error("it formats the prompt differently once an answer follows it")
        closing = rest.lstrip()
        if not closing:  # nothing, or a line's end
            return AnswerShape(before, "", self.tokens.end_of_text)
        end = self.tokens.first_of(closing)
        if end is None:
            raise self._error(f"it closes an answer with {closing!r}, which is no token")
        return AnswerShape(before, rest[: len(rest) - len(closing)], end)

    @cached_property
    def fixed(self) -> str:
        """The template's source for others to render: with what is fixed here fixed in it."""
        dates = self._rendered([user(_QUESTION)], True)[1]
        lines = ["{%- set enable_thinking = false -%}"] if "enable_thinking" in self.source else []
        if dates:
            table = json.dumps(dates, ensure_ascii=False)
            lines.append("{%- macro strftime_now(format) -%}{{- " + table + "[format] -}}{%- endmacro -%}")
        return "\n".join([*lines, self.source])

    def _rendered(self, messages: Sequence[Message], ask: bool) -> tuple[str, dict[str, str]]:
        """The text, and the dates that it asked for by their format."""
        dates: dict[str, str] = {}

        def strftime_now(form: str) -> str:
            return dates.setdefault(form, TODAY.strftime(form))

        try:
            text = self._compiled.render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=ask,
                enable_thinking=False,
                strftime_now=strftime_now,
                **self.tokens.named,
            )
        except Exception as exc:  # whatever a template of somebody else's does
            raise self._error(str(exc).strip() or type(exc).__name__) from exc
        return text, dates

    @cached_property
    def _compiled(self) -> Any:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControls]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        return environment.from_string(self.source)

    def _error(self, why: str) -> ChatTemplateError:
        return ChatTemplateError(f"the chat template of the tokenizer in {self.where} cannot be used: {why}")


class _Generation(Extension):
    """``{% generation %}…{% endgeneration %}``, by which templates mark what the model wrote: plain text here."""

    tags = {"generation"}  # noqa: RUF012 (of the base class)

    @override
    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _to_json(value: Any, **options: Any) -> str:
    """Without Jinja's escapes for HTML."""
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _stored(folder: Path) -> str | None:
    """The template, in a file of its own or in the tokenizer's configuration; of several the default one."""
    try:
        return (folder / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        stored = read_config(folder / CONFIG).get("chat_template")
    except (OSError, ValueError) as exc:
        raise ModelError(f"{folder / FILE} cannot be read: {exc}") from exc
    if isinstance(stored, list):
        named = {one.get("name"): one.get("template") for one in stored if isinstance(one, dict)}
        stored = named.get("default")
    return stored if isinstance(stored, str) else None
