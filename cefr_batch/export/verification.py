"""``python -m cefr_batch.export.verification PARENT REQUEST ANSWER``: a GGUF file run by llama.cpp, beside its merged model.

The same evaluation examples go through both: there through the file's own chat template, tokenizer and weights, here through
the prompt that was trained and the merged weights in fp32. A process of its own, since it loads two models and C++ code.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cefr_batch.data import Example, PromptFormat, prompt_format, read_dataset
from cefr_batch.data.encoding import Encoded, encode, encode_prompts
from cefr_batch.records.document import read_file, write_file
from cefr_batch.records.exports import CheckAnswer, CheckRequest, ExportCheck, TextDifference
from cefr_batch.training.process import start_process

if TYPE_CHECKING:
    from cefr_batch.export.llama_cpp import LlamaCpp

log = logging.getLogger(__name__)

_REINSTALL = "pip install --force-reinstall --no-cache-dir llama-cpp-python"
_NO_TEXT = "\ufffd"  # of bytes that are no character: transformers shows them, llama-cpp-python leaves them out
_BATCH = 8  # examples at once; changes speed and memory, not the result


def main(parent: str, request: str, answer: str) -> None:
    """Answer the request in a file."""
    start_process(int(parent))
    write_file(Path(answer), verify(read_file(CheckRequest, Path(request))))


def verify(request: CheckRequest) -> CheckAnswer:
    """Run a file as it is asked. Blocks for minutes."""
    try:
        from cefr_batch.export.llama_cpp import LlamaCpp
    except (ImportError, OSError, RuntimeError) as exc:  # not there, or built for another machine
        why = f"llama.cpp could not be used on the machine that made this file ({exc})"
        return CheckAnswer(not_verified=f"{why}; install it anew there ({_REINSTALL}), then export once more")
    started = time.monotonic()
    examples = read_dataset(Path(request.dataset)).eval[: request.examples]
    ours = _Ours.load(
        Path(request.merged), prompt_format(request.prompt, Path(request.merged)), examples, request.max_length
    )
    try:
        theirs = LlamaCpp(Path(request.gguf), ours.longest(request.max_new_tokens))
    except ValueError as exc:
        return CheckAnswer(refused=f"llama.cpp does not load it: {exc}")
    return CheckAnswer(check=_compare(ours, theirs, request.max_new_tokens, started))


@dataclass(frozen=True)
class _Ours:
    """The merged model in transformers, and the examples as it was trained to read them."""

    model: Any
    tokenizer: Any
    prompts: PromptFormat
    examples: Sequence[Example]
    asked: list[list[int]]
    whole: list[Encoded]

    @classmethod
    def load(cls, merged: Path, prompts: PromptFormat, examples: Sequence[Example], max_length: int) -> _Ours:
        from cefr_batch.models.loading import load_for_evaluation, load_tokenizer

        tokenizer = load_tokenizer(merged)
        asked = encode_prompts(tokenizer, prompts, examples)
        whole = encode(tokenizer, prompts, examples, max_length)
        return cls(load_for_evaluation(merged), tokenizer, prompts, examples, asked, whole)

    @property
    def end(self) -> int:
        """The token that closes a response."""
        return int(self.tokenizer.convert_tokens_to_ids(self.prompts.answer.end))

    def longest(self, max_new_tokens: int) -> int:
        """The tokens that one of these conversations may have, and some more for another template's."""
        return 128 + max([len(ids) + max_new_tokens for ids in self.asked] + [len(one.ids) for one in self.whole])

    def texts(self, max_new_tokens: int) -> list[str]:
        from cefr_batch.evaluation.generation import generate

        return generate(
            self.model, self.tokenizer, self.prompts, self.examples, max_new_tokens=max_new_tokens, batch_size=_BATCH
        )

    def losses(self) -> tuple[float, float]:
        from cefr_batch.evaluation.losses import evaluate

        pad, end = self.tokenizer.pad_token_id, self.end
        found = evaluate(self.model, self.whole, pad_id=pad, end_id=end, batch_size=_BATCH).losses
        return found.full.loss, found.response.loss


def _compare(ours: _Ours, theirs: LlamaCpp, max_new_tokens: int, started: float) -> ExportCheck:
    prompts = [_prompts(ours, theirs, i) for i in range(len(ours.examples))]
    others = [i for i, (equal, _) in enumerate(prompts) if not equal]
    log.info(
        "the file's chat template makes the trained prompt for %d of %d examples",
        len(prompts) - len(others),
        len(prompts),
    )
    loss, response_loss = _losses(theirs, ours.whole, [ids for _, ids in prompts])
    merged_loss, merged_response_loss = ours.losses()
    log.info("loss: merged model %.4f, file %.4f", merged_loss, loss)
    differences = _differences(ours, theirs, max_new_tokens)
    log.info("greedy texts: %d of %d equal", len(prompts) - len(differences), len(prompts))
    return ExportCheck(
        program=theirs.program,
        examples=len(prompts),
        equal_prompts=len(prompts) - len(others),
        first_other_prompt=ours.tokenizer.decode(theirs.tokens(_request(ours, others[0]))) if others else None,
        ends=theirs.ends_with(ours.end),
        equal_texts=len(prompts) - len(differences),
        differences=differences,
        merged_loss=merged_loss,
        exported_loss=loss,
        merged_response_loss=merged_response_loss,
        exported_response_loss=response_loss,
        seconds=round(time.monotonic() - started, 3),
    )


def _request(ours: _Ours, i: int) -> str:
    return ours.prompts.request(ours.examples[i])


def _prompts(ours: _Ours, theirs: LlamaCpp, i: int) -> tuple[bool, list[int]]:
    """Whether the file makes of an example what was trained, asked and answered; and what it makes of it, answered."""
    asked, trained = theirs.tokens(_request(ours, i)), ours.whole[i].ids
    whole = theirs.tokens(_request(ours, i), ours.examples[i].output)
    answered = whole[: len(trained)]  # a template may write a line's end after what closes the response
    equal = asked == ours.asked[i] and answered == trained
    return equal, answered if equal else whole[: len(trained) + 64]


def _losses(theirs: LlamaCpp, whole: Sequence[Encoded], made: Sequence[Sequence[int]]) -> tuple[float, float]:
    """The file's loss over all tokens and over those of the responses."""
    full, response = list[float](), list[float]()
    for one, ids in zip(whole, made, strict=True):
        losses = theirs.losses(ids).tolist()
        full += losses
        response += losses[one.response_start - 1 :]
    return fsum(full) / len(full), fsum(response) / max(1, len(response))


def _differences(ours: _Ours, theirs: LlamaCpp, max_new_tokens: int) -> list[TextDifference]:
    """Where the most probable answers part."""
    found = []
    for i, text in enumerate(ours.texts(max_new_tokens)):
        other = theirs.ask(_request(ours, i), max_new_tokens)
        if _plain(text) != _plain(other):
            found.append(_difference(ours, theirs, i, text, other))
    return found


def _plain(text: str) -> str:
    return text.replace(_NO_TEXT, "").strip()


def _difference(ours: _Ours, theirs: LlamaCpp, i: int, text: str, other: str) -> TextDifference:
    """The first tokens that differ, and how much each program prefers its own."""
    mine, others = ([*ours.tokenizer(one, add_special_tokens=False).input_ids, ours.end] for one in (text, other))
    pairs = zip(mine, others, strict=False)
    at = next((t for t, (a, b) in enumerate(pairs) if a != b), min(len(mine), len(others)) - 1)
    before, a, b = [*ours.asked[i], *mine[:at]], mine[at], others[at]
    from cefr_batch.evaluation.generation import next_token_logits

    here, there = next_token_logits(ours.model, before), theirs.next_token_logits(before)
    return TextDifference(
        example=i,
        token=at,
        ours=ours.tokenizer.decode([a]),
        theirs=ours.tokenizer.decode([b]),
        our_gap=round(here[a] - here[b], 4),
        their_gap=round(float(there[b] - there[a]), 4),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
