"""A run's examples become one text everywhere: the same tokens as transformers makes of it, and what must not be in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.prompts import CHATML, alpaca, make_chat_tokenizer

from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import Level
from cefr_batch.data import Dataset, Example, TokenCounter, prompt_format
from cefr_batch.data.build import build_examples
from cefr_batch.data.encoding import encode, encode_prompts
from cefr_batch.data.pairs import read_pairs
from cefr_batch.data.prompts import plain_words_format, shots_of
from cefr_batch.errors import ModelError, NoChatTemplate
from cefr_batch.models.loading import load_tokenizer
from cefr_batch.planning.plan import make_plan

WITH_BOS = "{{ bos_token }}" + CHATML
FREE = Example("Do it.", "With this.", "Done.")
Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    spec = load_spec("B1", overrides=["data.examples=8", "data.words_per_example=4"])
    return [*build_examples(read_pairs("starter", Level.B1), spec.data, spec.level)[0], FREE]


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Folder:
    def make(template: str | None = CHATML, **settings: Any) -> Path:
        return make_chat_tokenizer(tiny_model, tmp_path / "model", template, **settings)

    return make


def conversation(example: Example) -> list[dict[str, str]]:
    given = f"\n\n{example.input}" if example.input else ""
    return [
        {"role": "user", "content": example.instruction + given},
        {"role": "assistant", "content": example.output},
    ]


@pytest.mark.parametrize("template", [CHATML, WITH_BOS])
@pytest.mark.parametrize("around", ["$A", "<bos> $A", "<bos> $A <eos>"])
def test_a_chat_examples_tokens_are_those_of_transformers_up_to_the_end_of_the_turn(
    template: str, around: str, folder: Folder, examples: list[Example]
) -> None:
    """Begin-of-text is there once if the template writes it, whatever the tokenizer adds to other texts."""
    path = folder(template, around=around)
    tokenizer, prompts = load_tokenizer(path), prompt_format("chat", path)
    encoded = encode(tokenizer, prompts, examples, 512)
    asked = encode_prompts(tokenizer, prompts, examples)
    for example, one, prompt in zip(examples, encoded, asked, strict=True):
        messages = conversation(example)
        whole = tokenizer.apply_chat_template(messages, return_dict=False)
        start = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
        assert one.ids == whole[: len(one.ids)]
        assert tokenizer.decode(whole[len(one.ids) :]) == "\n", "what follows the turn is not learned"
        assert one.ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert prompt == start == one.ids[: one.response_start]


@pytest.mark.parametrize("around", ["$A", "<bos> $A", "<bos> $A <eos>", "$A <eos>"])
def test_an_alpaca_examples_tokens_end_once_and_its_prompt_does_not(
    around: str, folder: Folder, examples: list[Example]
) -> None:
    """What the tokenizer puts in front stays; an end-of-text token that it would append to a prompt does not."""
    path = folder(None, around=around)
    tokenizer, prompts = load_tokenizer(path), prompt_format("alpaca", path)
    begin = [tokenizer.bos_token_id] if "<bos>" in around else []
    asked = encode_prompts(tokenizer, prompts, examples)
    for example, one, prompt in zip(examples, encode(tokenizer, prompts, examples, 512), asked, strict=True):
        text = alpaca().text(example)
        assert one.ids == [*begin, *tokenizer(text, add_special_tokens=False).input_ids]
        assert one.ids.count(tokenizer.eos_token_id) == 1
        assert prompt == one.ids[: one.response_start]
        assert tokenizer.eos_token_id not in prompt
    cut = encode(tokenizer, prompts, examples, 16)
    assert [one.ids for one in cut] == [one.ids[:16] for one in encode(tokenizer, prompts, examples, 512)]


@pytest.mark.parametrize("around", ["$A", "<bos> $A", "<bos> $A <eos>"])
@pytest.mark.parametrize("kind", ["alpaca", "chat"])
def test_planning_counts_the_tokens_that_training_sees(
    kind: Any, around: str, folder: Folder, examples: list[Example]
) -> None:
    path = folder(WITH_BOS, around=around)
    encoded = encode(load_tokenizer(path), prompt_format(kind, path), examples, 512)
    assert TokenCounter(path / "tokenizer.json", kind)(examples) == [len(one.ids) for one in encoded]


def test_white_space_that_a_template_writes_before_an_answer_is_learned_with_it(
    folder: Folder, examples: list[Example]
) -> None:
    mistral = (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
    )
    path = folder(mistral)
    tokenizer, prompts = load_tokenizer(path), prompt_format("chat", path)
    trained = {examples[0].output.split("\n")[0].removeprefix("1. ")}
    one = encode(tokenizer, prompts, examples[:1], 512, trained)[0]
    assert one.ids == tokenizer.apply_chat_template(conversation(examples[0]), return_dict=False)
    assert tokenizer.decode(one.ids[one.response_start :]) == f" {examples[0].output} <eos>"
    assert (
        tokenizer.decode([i for i, of in zip(one.ids, one.sentences, strict=True) if of and of.trained]).strip()
        == trained.pop()
    )


def test_chat_needs_a_template_that_can_be_trained_with(folder: Folder) -> None:
    path = folder(None)
    with pytest.raises(
        ModelError, match=r"^model\.prompt: the tokenizer in .* has no chat template; set it to alpaca, or"
    ):
        TokenCounter(path / "tokenizer.json", "chat")
    assert TokenCounter(path / "tokenizer.json").no_chat_template == f"the tokenizer in {path} has no chat template"
    path = folder(CHATML.replace("<|im_end|>", "THE END"))
    with pytest.raises(ModelError, match=r"model\.prompt: the chat template of .*: it closes an answer with 'THE END"):
        TokenCounter(path / "tokenizer.json", "chat")


def test_plain_words_ask_for_one_numbered_sentence_a_word_at_the_level(folder: Folder, examples: list[Example]) -> None:
    path = folder()
    text = plain_words_format(path, Level.B1).prompt(examples[0])
    listed = examples[0].instruction.split("\n\n")[0].split("\n", 1)[1]
    assert text.endswith(f"\n\n{listed}<|im_end|>\n<|im_start|>assistant\n")
    assert "at CEFR level B1 (intermediate)" in text
    assert "###" not in text
    assert "A1" in plain_words_format(path, Level.A1).prompt(examples[0])
    assert (
        plain_words_format(path, Level.B1).prompt(FREE).startswith("<|im_start|>user\nDo it.\n\nWith this.<|im_end|>")
    )
    with pytest.raises(NoChatTemplate):
        plain_words_format(folder(None), Level.B1)


def test_few_shots_are_questions_and_answers_from_the_training_data(folder: Folder, examples: list[Example]) -> None:
    shots = shots_of(examples[:6])
    assert shots == [examples[0], examples[2], examples[4]]
    text = plain_words_format(folder(), Level.B1, shots).prompt(examples[6])
    turns = text.split("<|im_start|>")[1:]
    assert [turn.split("\n")[0] for turn in turns] == [*["user", "assistant"] * 4]
    assert [turn.split("\n", 1)[1] for turn in turns[1::2]] == [*(f"{shot.output}<|im_end|>\n" for shot in shots), ""]
    assert len({turn.split("\n\n")[0] for turn in turns[::2]}) == 1, "each is asked in the same words"
    assert shots_of(examples[:2]) == examples[:2]
    assert shots_of([]) == []


def faults(counter: TokenCounter, examples: list[Example], max_length: int = 512) -> list[str]:
    return [fault.told(len(examples), "training examples") for fault in counter.faults(examples, max_length)]


def test_control_tokens_in_the_data_are_named_with_their_places(folder: Folder, examples: list[Example]) -> None:
    path = folder(tokens=("<|endoftext|>",))
    counter = TokenCounter(path / "tokenizer.json")
    assert faults(counter, examples) == []
    bad = [
        *examples[:3],
        Example("1. one<|endoftext|>", "", "1. One."),
        Example("1. one", "<pad>", "1. One."),
        Example("1. one", "", "1. One <|endoftext|> more."),
        Example("1. one", "", "1. A <b>, <s>, </s>, <|endoftext| > are text to this tokenizer."),
    ]
    advice = "in their text, which the model would take for a control token: remove it, or write it otherwise"
    assert faults(counter, bad) == [
        f"2 of 7 training examples have <|endoftext|> {advice} (index 3, 5, from 0)",
        f"1 of 7 training examples have <pad> {advice} (index 4, from 0)",
    ]
    ids = load_tokenizer(path)(bad[3].instruction).input_ids
    assert load_tokenizer(path).convert_tokens_to_ids("<|endoftext|>") in ids, "this is what would be trained on"


@pytest.mark.parametrize("kind", ["alpaca", "chat"])
def test_examples_without_a_response_within_the_limit_are_named(
    kind: Any, folder: Folder, examples: list[Example]
) -> None:
    """One token of the response is enough."""
    path = folder(around="<bos> $A")
    counter, encoded = TokenCounter(path / "tokenizer.json", kind), None
    encoded = encode(load_tokenizer(path), counter.prompts, examples, 10_000)
    limit = sorted(one.response_start for one in encoded)[-2]
    gone = [i for i, one in enumerate(encoded) if one.response_start >= limit]
    assert len(gone) == 2
    places = ", ".join(map(str, gone))
    remedy = "raise training.max_length, or leave them out"
    assert faults(counter, examples, limit) == [
        f"2 of 8 training examples have no response left within {limit} tokens: {remedy} (index {places}, from 0)"
    ]
    assert faults(counter, examples, max(one.response_start for one in encoded) + 1) == []


def test_a_plan_refuses_a_limit_that_leaves_no_response_although_cutting_is_allowed(
    folder: Folder, examples: list[Example]
) -> None:
    counter = TokenCounter(folder() / "tokenizer.json")
    spec = load_spec("B1", overrides=["data.allow_truncation=true", "training.max_length=16"])
    problems = make_plan(spec, Dataset(tuple(examples), tuple(examples[:2])), counter).problems()
    remedy = "raise training.max_length, or leave them out"
    assert [str(problem) for problem in problems] == [
        f"data: 8 of 8 training examples have no response left within 16 tokens: {remedy} (index 0, 1, 2, …, from 0)",
        f"data: 2 of 2 evaluation examples have no response left within 16 tokens: {remedy} (index 0, 1, from 0)",
    ]


def test_a_plan_refuses_what_cannot_be_learned_from(folder: Folder, examples: list[Example]) -> None:
    counter = TokenCounter(folder() / "tokenizer.json")
    spec = load_spec("B1", overrides=["data.allow_truncation=true"])
    bad = Example("1. one", "", "1. One <eos> more.")
    (problem,) = make_plan(spec, Dataset((*examples[:2], bad), tuple(examples[:2])), counter).problems()
    assert str(problem).startswith("data: 1 of 3 training examples have <eos> in their text, which")


def test_a_plan_counts_the_texts_that_will_be_written_and_says_which_cannot_be(
    folder: Folder, examples: list[Example]
) -> None:
    spec = load_spec("B1", overrides=["generation.examples=20"])
    data = Dataset(tuple(examples[:3]), tuple(examples[:5]))
    texts = make_plan(spec, data, TokenCounter(folder() / "tokenizer.json")).texts
    assert (texts.examples, texts.baselines, texts.missing) == (5, ("zero_shot", "few_shot"), ())
    assert texts.texts == 5 * 2 * 4
    texts = make_plan(spec, data, TokenCounter(folder(None) / "tokenizer.json")).texts
    assert (texts.baselines, texts.missing, texts.texts) == ((), ("zero_shot", "few_shot"), 5 * 2 * 2)
