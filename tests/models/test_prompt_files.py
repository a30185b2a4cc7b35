"""Must show: a user of the published folder, with transformers alone, gets the text that we get."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.prompts import CHATML, make_chat_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from cefr_batch.data import Example, prompt_format
from cefr_batch.data.encoding import encode, encode_prompts
from cefr_batch.evaluation.generation import generate
from cefr_batch.models.loading import load_for_evaluation, load_tokenizer
from cefr_batch.models.prompt_files import save_prompt_files

DATED = "{{ bos_token }}{{ strftime_now('%Y-%m-%d') }}{% if enable_thinking is not false %}THINK{% endif %}" + CHATML
EXAMPLES = [
    Example("Generate B1-level English sentences for these 2 words:\n1. travel\n2. cat", "", "1. One.\n2. Two."),
    Example("  {{ Say }} it & <b>well</b> ", "With this.", "Done."),
]


WAYS = {
    "alpaca": ("alpaca", None),
    "alpaca, of a chat model": ("alpaca", CHATML),
    "chat": ("chat", CHATML),
    "chat, with a date": ("chat", DATED),
}


@pytest.fixture(params=list(WAYS.values()), ids=list(WAYS))
def published(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> tuple[Any, Path]:
    """A prompt format, and a folder with a model that was trained with it: as the merge leaves it, for which training is not
    needed. Its head ends texts at different lengths."""
    kind, template = request.param
    base = make_chat_model(tiny_model, tmp_path / "base", template, around="<bos> $A <eos>")
    (base / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_length": 20, "eos_token_id": [0, 600]})
    )
    target = tmp_path / "published"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(3)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(0.3 + torch.rand(len(model.model.embed_tokens.weight), 1))
        end = AutoTokenizer.from_pretrained(base).convert_tokens_to_ids("<|im_end|>" if kind == "chat" else "<eos>")
        model.model.embed_tokens.weight[end] *= 4
    model.generation_config.max_length = None
    model.generation_config.do_sample = False
    model.generation_config.temperature = model.generation_config.top_p = None
    model.to(torch.bfloat16).save_pretrained(target)
    prompts = prompt_format(kind, base)
    save_prompt_files(base, load_tokenizer(base), prompts, target)
    return prompts, target


def test_transformers_own_chat_gives_our_prompt_and_our_greedy_text(published: tuple[Any, Path]) -> None:
    prompts, folder = published
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = encode_prompts(load_tokenizer(folder), prompts, EXAMPLES)
    texts = generate(
        load_for_evaluation(folder), load_tokenizer(folder), prompts, EXAMPLES, max_new_tokens=24, batch_size=2
    )
    assert len(set(texts)) == 2
    for example, ids, text in zip(EXAMPLES, ours, texts, strict=True):
        messages = [{"role": "user", "content": prompts.request(example)}]
        inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == ids
        output = model.generate(**inputs, max_new_tokens=24)[0, len(ids) :]
        assert tokenizer.decode(output, skip_special_tokens=True) == text


def test_a_whole_conversation_is_the_trained_text_up_to_what_closes_it(published: tuple[Any, Path]) -> None:
    prompts, folder = published
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for example, one in zip(EXAMPLES, encode(load_tokenizer(folder), prompts, EXAMPLES, 512), strict=True):
        messages = [
            {"role": "user", "content": prompts.request(example)},
            {"role": "assistant", "content": example.output},
        ]
        whole = tokenizer.apply_chat_template(messages, return_dict=False)
        assert tokenizer.decode(whole[len(one.ids) :]).strip() == ""
        assert whole[: len(one.ids)] == one.ids


def test_it_stops_where_responses_end_and_samples_only_if_asked(published: tuple[Any, Path]) -> None:
    prompts, folder = published
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    end = tokenizer.convert_tokens_to_ids(prompts.answer.end)
    assert settings["eos_token_id"] == sorted({end, tokenizer.eos_token_id, 0, 600})
    assert settings["do_sample"] is False
    assert not {"temperature", "top_p", "top_k", "max_length", "repetition_penalty"} & settings.keys()


def test_turns_and_a_system_message_have_a_place_in_the_alpaca_template(tiny_model: Path, tmp_path: Path) -> None:
    base = make_chat_model(tiny_model, tmp_path / "base", None)
    save_prompt_files(base, load_tokenizer(base), prompt_format("alpaca", base), tmp_path / "out")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One."},
        {"role": "assistant", "content": "First."},
        {"role": "user", "content": "Two."},
    ]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "### Instruction:\nBe brief.\n\nOne.\n\n### Response:\nFirst.<eos>### Instruction:\nTwo.\n\n### Response:\n"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": False, "temperature": 0.6, "top_p": 0.9},  # transformers does not save these
        {"max_new_tokens": -1},  # nor load these
        {"num_beams": 0},  # nor generate with these
        {"do_sample": True, "num_beams": 3, "no_repeat_ngram_size": 1, "suppress_tokens": list(range(300))},
    ],
)
def test_other_generation_settings_of_the_base_model_change_nothing(
    settings: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    """They were made for another task; some contradict themselves, and no training may end in vain for that."""
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [0], **settings}))
    tokenizer, prompts = load_tokenizer(base), prompt_format("alpaca", base)
    save_prompt_files(base, tokenizer, prompts, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (written["eos_token_id"], written["do_sample"]) == ([0], False)
    assert not settings.keys() - {"do_sample"} & written.keys()
    plain, given = (
        generate(load_for_evaluation(folder), tokenizer, prompts, EXAMPLES, max_new_tokens=24, batch_size=2)
        for folder in (tiny_model, base)
    )
    assert given == plain
