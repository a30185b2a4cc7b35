"""Counting tokens as transformers would, with the tokenizers library alone: it loads in a moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cefr_batch.config.schema import Level
from cefr_batch.data.encoding import added_in_front, response_start
from cefr_batch.data.examples import Example
from cefr_batch.data.prompts import plain_words_format, prompt_format
from cefr_batch.data.special_tokens import SpecialTokens
from cefr_batch.errors import ChatTemplateError, ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BATCH = 1000
_SHOWN = 3


@dataclass(frozen=True)
class Fault:
    """Why a model cannot learn from some examples: their indices (from 0), and what is wrong with them, as in "have …"."""

    what: str
    examples: tuple[int, ...]

    def told(self, total: int, name: str) -> str:
        """In words, of so many examples of this name."""
        shown = ", ".join(map(str, self.examples[:_SHOWN]))
        more = ", …" if len(self.examples) > _SHOWN else ""
        return f"{len(self.examples):,} of {total:,} {name} {self.what} (index {shown}{more}, from 0)"


def control_tokens_in(examples: Sequence[Example], tokens: SpecialTokens) -> list[Fault]:
    """A fault for each control token that stands in the text of examples: a tokenizer takes it for the token itself."""
    found: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        if token := tokens.in_text(f"{example.instruction}\n{example.input}\n{example.output}"):
            found.setdefault(token, []).append(number)
    what = "in their text, which the model would take for a control token: remove it, or write it otherwise"
    return [Fault(f"have {token} {what}", tuple(numbers)) for token, numbers in found.items()]


class TokenCounter:
    """The tokenizer in a folder of a model's files, and the prompt format of a run (``prompts``). Counts examples once."""

    def __init__(self, tokenizer_json: Path, prompt: Literal["alpaca", "chat"] = "alpaca") -> None:
        """Raises ``ModelError`` where the files are not a usable tokenizer, or have no such format."""
        self._tokenizer = _load(tokenizer_json)
        self._folder = tokenizer_json.parent
        self.prompts = prompt_format(prompt, self._folder)
        whole, plain = (self._tokenizer.encode("a", add_special_tokens=special).ids for special in (True, False))
        self._begin = 0 if self.prompts.begins_itself else len(added_in_front(whole, plain))
        self._count, self._faults = cache(self._tokens_of), cache(self._faults_of)

    @cached_property
    def _special_tokens(self) -> SpecialTokens:
        return SpecialTokens.read(self._folder)

    @cached_property
    def no_chat_template(self) -> str | None:
        """Why the model cannot be asked through a chat template of its own; None if it can."""
        try:
            plain_words_format(self._folder, Level.A1)
        except ChatTemplateError as exc:
            return str(exc)
        return None

    def texts(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text, with those that the tokenizer puts in front."""
        return [
            self._begin + len(encoding.ids)
            for start in range(0, len(texts), _BATCH)
            for encoding in self._tokenizer.encode_batch_fast(texts[start : start + _BATCH], add_special_tokens=False)
        ]

    def __call__(self, examples: Sequence[Example]) -> list[int]:
        """The tokens of each example's whole text: what the trainer sees before it cuts."""
        return self._count(tuple(examples))

    def faults(self, examples: Sequence[Example], max_length: int) -> list[Fault]:
        """Why some of the examples cannot be learned from: a control token of the model stands in the text, or the
        response begins beyond ``max_length`` tokens."""
        return self._faults(tuple(examples), max_length)

    def _tokens_of(self, examples: tuple[Example, ...]) -> list[int]:
        return self.texts([self.prompts.text(example) for example in examples])

    def _faults_of(self, examples: tuple[Example, ...], max_length: int) -> list[Fault]:
        faults = control_tokens_in(examples, self._special_tokens)
        lengths = zip(examples, self(examples), strict=True)
        cut = [i for i, (e, tokens) in enumerate(lengths) if tokens > max_length <= self._response_start(e)]
        if cut:
            remedy = "raise training.max_length, or leave them out"
            faults.append(Fault(f"have no response left within {max_length} tokens: {remedy}", tuple(cut)))
        return faults

    def _response_start(self, example: Example) -> int:
        """The first token of the response, as ``encode`` finds it."""
        prompt_end = len(self.prompts.prompt(example))
        offsets = self._tokenizer.encode(self.prompts.text(example), add_special_tokens=False).offsets
        return self._begin + response_start(offsets, prompt_end)


def _load(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as exc:  # the library raises nothing narrower
        raise ModelError(f"{path} is not a tokenizer that can be read: {exc}") from exc
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
