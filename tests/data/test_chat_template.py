"""A chat template gives the text that transformers gives, whatever the day is; what it cannot be used for is said."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import pytest
import transformers.utils.chat_template_utils as theirs
from support.families import MISTRAL
from support.prompts import CHATML

from cefr_batch.data.chat_template import AnswerShape, ChatTemplate, Message, assistant, user
from cefr_batch.data.special_tokens import SpecialTokens
from cefr_batch.errors import ChatTemplateError, NoChatTemplate

NAMED = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
ADDED = frozenset(
    [
        *NAMED.values(), "<|im_end|>", "<|im_start|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<turn|>",
        "<|END_OF_TURN_TOKEN|>", "<|END_RESPONSE|>",
    ]
)  # fmt: skip
TOKENS = SpecialTokens(NAMED, ADDED, ADDED)

# Of some forty families of models, as TRL ships them.
FOLDER = Path(next(iter((find_spec("trl") or pytest.fail("needs trl")).submodule_search_locations or ())))
REAL = {path.stem: path.read_text(encoding="utf-8") for path in sorted((FOLDER / "chat_templates").glob("*.jinja"))}
# SmolLM2's, with the system message that it has by itself.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\n' }}{% endif %}"
)
ALL = {**REAL, "mistral": MISTRAL, "smollm2": SMOLLM2, "chatml": CHATML}
TALKS: list[tuple[list[Message], bool]] = [
    ([user(" What's <b>this</b> & “that”?\n1. é 🎉 ")], True),
    ([user("A?"), assistant("1. One.\n2. Two."), user("B?")], True),
    ([user("A?"), assistant("1. One.\n2. Two.")], False),
    ([{"role": "system", "content": "Be brief."}, user("A?")], True),
]


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, TOKENS, "somewhere")


def rendered_by_transformers(source: str, messages: list[Message], ask: bool, **values: object) -> str:
    """The text, or the reason why there is none."""
    try:
        texts, _ = theirs.render_jinja_template(
            [[dict(message) for message in messages]],
            chat_template=source,
            add_generation_prompt=ask,
            **NAMED,
            **values,
        )
    except Exception as exc:
        return f"refused: {exc}"
    return str(texts[0])


def rendered(source: str, messages: list[Message], ask: bool) -> str:
    try:
        return template(source).render(messages, ask=ask)
    except ChatTemplateError as exc:
        return "refused: " + str(exc).removeprefix("the chat template of the tokenizer in somewhere cannot be used: ")


def at(monkeypatch: pytest.MonkeyPatch, *date: int) -> None:
    """Let transformers think that it is this day."""

    class Day(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Day:
            return cls(*date)  # type: ignore[arg-type]

    monkeypatch.setattr(theirs, "datetime", Day)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_the_text_is_that_of_transformers_on_a_fixed_day(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, 2024, 7, 26)
    for messages, ask in TALKS:
        expected = rendered_by_transformers(ALL[name], messages, ask, enable_thinking=False)
        assert rendered(ALL[name], messages, ask) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("llava_next")])  # they take no text
def test_what_is_written_for_others_gives_our_text_on_any_day_and_whatever_they_ask_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, 2031, 2, 3)
    fixed = template(ALL[name]).fixed
    for messages, ask in TALKS:
        for values in ({}, {"enable_thinking": True}):
            assert rendered_by_transformers(fixed, messages, ask, **values) == rendered(ALL[name], messages, ask)
    needs = "strftime_now" in ALL[name] or "enable_thinking" in ALL[name]
    assert (fixed == ALL[name]) == (not needs), "a template that depends on nothing is kept as it is"


def test_todays_date_is_in_no_text() -> None:
    text = template(REAL["llama3_2"]).render([user("A?")], ask=True)
    assert "Today Date: 26 Jul 2024" in text
    assert text.startswith("<s>")


SHAPES = {
    "smollm2": AnswerShape("", "", "<|im_end|>"),
    "llama3_2": AnswerShape("", "", "<|eot_id|>"),
    "gemma3": AnswerShape("", "", "<end_of_turn>"),
    "qwen3": AnswerShape("", "", "<|im_end|>"),
    "phi3": AnswerShape("", "", "<|end|>"),
    "cohere2": AnswerShape("", "", "<|END_RESPONSE|>"),
    "mistral": AnswerShape(" ", " ", "</s>"),
    "glm4moe": AnswerShape("\n", "", "</s>"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_shape_of_an_answer_is_found(name: str) -> None:
    """The prompt and an answer in this shape are what the template writes, up to what closes the answer."""
    own = template(ALL[name])
    assert own.answer == SHAPES[name]
    messages = [user("Two words:\n1. cat\n2. dog")]
    text = "1. A cat sat.\n2. The dog ran."
    whole = own.render([*messages, assistant(text)], ask=False)
    shape = own.answer
    start = own.render(messages, ask=True) + shape.before + text + shape.after
    assert whole.startswith(start)
    assert whole.removeprefix(start).strip() == "" or whole.startswith(start + shape.end)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (REAL["deepseek_r1_distill"], "it formats the prompt differently once an answer follows it"),  # it thinks first
        (REAL["idefics3"], "it leaves out the text of a message"),  # which must be a list of parts there
        (REAL["llava_next"], "'str object' has no attribute 'text'"),
        (CHATML.replace("<|im_end|>", " THE END"), r"it closes an answer with 'THE END\\n', which is no token"),
        ("{{ raise_exception('Only for tools') }}", "Only for tools"),
        ("{% for %}", "Expected an expression, got 'end of statement block'"),
        ("{{ messages.append(messages[0]) }}", "access to attribute 'append' of 'list' object is unsafe."),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe."),
        ("{{ range(10**9) | list }}", "Range too big. The sandbox blocks ranges larger than MAX_RANGE"),
        ("{% include '/etc/passwd' %}", "no loader for this environment specified"),
    ],
)
def test_a_template_that_cannot_be_trained_with_is_refused_with_the_reason(source: str, reason: str) -> None:
    with pytest.raises(ChatTemplateError, match=rf"^the chat template .* in somewhere cannot be used: {reason}"):
        template(source).answer  # noqa: B018


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"chat_template.jinja": "own file"}, "own file"),
        ({"config": "in the config"}, "in the config"),
        ({"chat_template.jinja": "own file", "config": "in the config"}, "own file"),
        ({"config": [{"name": "rag", "template": "r"}, {"name": "default", "template": "of several"}]}, "of several"),
    ],
)
def test_the_template_is_found_where_transformers_finds_it(
    files: dict[str, object], expected: str, tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    config = json.loads((tiny_model / "tokenizer_config.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_bytes((tiny_model / "tokenizer.json").read_bytes())
    for name, content in files.items():
        if name == "config":
            config["chat_template"] = content
        else:
            (tmp_path / name).write_text(str(content), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    messages = [dict(user("A?"))]
    assert AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(messages, tokenize=False) == expected
    found = ChatTemplate.read(tmp_path, SpecialTokens.read(tmp_path))
    assert found.render(messages, ask=False) == expected


def test_a_tokenizer_without_a_template_is_said_to_have_none(tiny_model: Path) -> None:
    with pytest.raises(NoChatTemplate, match=f"^the tokenizer in {tiny_model} has no chat template$"):
        ChatTemplate.read(tiny_model, SpecialTokens.read(tiny_model))


def test_rendering_loads_neither_transformers_nor_torch() -> None:
    program = (
        "import sys\nfrom cefr_batch.data.chat_template import ChatTemplate, user\n"
        "from cefr_batch.data.special_tokens import SpecialTokens\n"
        f"own = ChatTemplate({CHATML!r}, SpecialTokens({{'eos_token': '</s>'}}, frozenset(), frozenset()), '')\n"
        "print(len(own.render([user('A?')], ask=True)), {'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.split(" ", 1)[1] == "set()\n"
