"""Examples as a model's tokens, with what each token belongs to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cefr_batch.data.examples import Example, sentence_spans, sentences_in
from cefr_batch.data.prompts import PromptFormat

IGNORED = -100  # the label of a token that no loss counts


@dataclass(frozen=True)
class EncodedSentence:
    """A sentence of examples that were encoded together: its number among their different sentences, in the order in which
    these first occur, and whether it is in the training data, word for word."""

    number: int
    trained: bool


@dataclass(frozen=True)
class Encoded:
    """An example's tokens; those from ``response_start`` on (what closes it included) are the response.

    ``sentences`` says of each token to which sentence it belongs; None for a token of no sentence: the prompt, the numbers,
    line ends, end-of-text.
    """

    ids: list[int]
    response_start: int
    sentences: list[EncodedSentence | None]

    def parts(self) -> dict[str, list[int]]:
        """The tokens of each part by their index, from 1 on: nothing predicts the first one."""
        tokens = range(1, len(self.ids))
        return {
            "full": list(tokens),
            "response": [t for t in tokens if t >= self.response_start],
            "seen": [t for t in tokens if (sentence := self.sentences[t]) and sentence.trained],
            "unseen": [t for t in tokens if (sentence := self.sentences[t]) and not sentence.trained],
        }

    def by_sentence(self) -> dict[int, list[int]]:
        """The tokens of each sentence, by its number, as ``parts`` counts them."""
        found: dict[int, list[int]] = {}
        for t, sentence in enumerate(self.sentences[1:], 1):
            if sentence:
                found.setdefault(sentence.number, []).append(t)
        return found


def response_start(offsets: Sequence[tuple[int, int]], prompt_end: int) -> int:
    """The first token that has a character beyond the prompt's; their number if none has. ``offsets``: each token's first
    character, and the one after its last."""
    return next((i for i, (_, end) in enumerate(offsets) if end > prompt_end), len(offsets))


def encode(
    tokenizer: Any,
    prompts: PromptFormat,
    examples: Sequence[Example],
    max_length: int,
    trained: Collection[str] = frozenset(),
) -> list[Encoded]:
    """Tokenize each example's prompt, output and what closes it as one text, cut at ``max_length`` tokens.

    ``trained``: the sentences of the training data.
    """
    texts = [prompts.text(e) for e in examples]
    begin = beginning(tokenizer, prompts)
    limits = {"truncation": True, "max_length": max_length - len(begin)}
    batch = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, **limits)
    encoded = []
    known: dict[str, EncodedSentence] = {}
    for example, own, spans in zip(examples, batch["input_ids"], batch["offset_mapping"], strict=True):
        ids, offsets = [*begin, *own], [*[(0, 0)] * len(begin), *spans]
        prompt_end = len(prompts.prompt(example))
        start = response_start(offsets, prompt_end)
        output_start = prompt_end + len(prompts.answer.before)
        for text in sentences_in(example):
            known.setdefault(text, EncodedSentence(len(known), text in trained))
        encoded.append(Encoded(ids, start, _sentences(example, offsets, output_start, known)))
    return encoded


def encode_prompts(tokenizer: Any, prompts: PromptFormat, examples: Sequence[Example]) -> list[list[int]]:
    """The tokens of each example's prompt, for the model to continue."""
    begin = beginning(tokenizer, prompts)
    batch = tokenizer([prompts.prompt(e) for e in examples], add_special_tokens=False)
    return [[*begin, *ids] for ids in batch["input_ids"]]


def beginning(tokenizer: Any, prompts: PromptFormat) -> list[int]:
    """The tokens that the tokenizer puts in front of a text of this format. What it would append, such as end-of-text, is
    left out: a prompt is to be continued, and what closes a response is in the text."""
    if prompts.begins_itself:
        return []
    return added_in_front(*(tokenizer("a", add_special_tokens=special).input_ids for special in (True, False)))


def added_in_front(whole: Sequence[int], plain: Sequence[int]) -> list[int]:
    """What stands before ``plain`` in ``whole``, which are a text's tokens with and without what its tokenizer adds."""
    places = range(len(whole) - len(plain) + 1)
    at = next((at for at in places if list(whole[at : at + len(plain)]) == list(plain)), 0)
    return list(whole[:at])


def _sentences(
    example: Example, offsets: Sequence[tuple[int, int]], output_start: int, known: Mapping[str, EncodedSentence]
) -> list[EncodedSentence | None]:
    """A token belongs to the sentence whose characters it has, be it together with the blank or line end beside it."""
    of_token: list[EncodedSentence | None] = [None] * len(offsets)
    spans = iter(sentence_spans(example))
    begin, end, sentence = 0, 0, None
    for t, (first, last) in enumerate(offsets):
        while first - output_start >= end and (span := next(spans, None)):
            begin, end = span
            sentence = known[example.output[begin:end]]
        if max(first - output_start, begin) < min(last - output_start, end):
            of_token[t] = sentence
    return of_token
