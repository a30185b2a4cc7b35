"""Must show: a file that asks otherwise, ends elsewhere or has other weights than were trained is caught, no other one."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch
from support.exports import StandInLlamaCpp, check, publish
from support.prompts import CHATML, make_chat_model
from transformers import AutoModelForCausalLM

from cefr_batch.data import Example, prompt_format
from cefr_batch.export.verification import _compare, _Ours, verify
from cefr_batch.records.exports import TIE, CheckRequest, ExportCheck, TextDifference

EXAMPLES = [
    Example(
        "Generate B1-level English sentences for these 2 words:\n1. travel\n2. cat", "", "1. We travel.\n2. A cat."
    ),
    Example("Say it well.", "With this.", "Done."),
]


def compared(published: Path, other: Path, kind: str = "alpaca", new_tokens: int = 12) -> ExportCheck:
    """What the comparison says of ``other`` as the export of ``published``."""
    prompts = prompt_format("chat" if kind == "chat" else "alpaca", published)
    ours = _Ours.load(published, prompts, EXAMPLES, 512)
    return _compare(ours, StandInLlamaCpp(other), new_tokens, time.monotonic())  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["alpaca", "chat"])
def test_a_true_export_is_equal_in_all(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    base = make_chat_model(tiny_model, tmp_path / "base", CHATML, around="<bos> $A")
    published = publish(base, tmp_path / "published", kind)
    found = compared(published, published, kind)
    assert (found.examples, found.equal_prompts, found.equal_texts, found.ends) == (2, 2, 2, True)
    assert abs(found.loss_change) < 1e-5
    assert abs(found.exported_response_loss - found.merged_response_loss) < 1e-5
    assert found.merged_response_loss != found.merged_loss
    assert list(found.problems("f16")) == []


def test_another_chat_template_is_caught_with_what_it_makes(tiny_model: Path, tmp_path: Path) -> None:
    """As it happens where the base model's template is left in: the weights are right, and the model is asked wrongly."""
    base = make_chat_model(tiny_model, tmp_path / "base", CHATML)
    published = publish(base, tmp_path / "published")
    other = publish(base, tmp_path / "other")
    (other / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    found = compared(published, other)
    assert found.equal_prompts == 0
    assert found.first_other_prompt is not None
    assert found.first_other_prompt.startswith("<|im_start|>user\nGenerate B1-level")
    (first, *_) = found.problems("q8_0")
    assert first.startswith(
        "its chat template does not make the prompt that was trained, for 2 of 2 examples; the first: '<|im"
    )


def test_one_space_more_in_the_template_is_caught(tiny_model: Path, tmp_path: Path) -> None:
    published, other = publish(tiny_model, tmp_path / "published"), publish(tiny_model, tmp_path / "other")
    file = other / "chat_template.jinja"
    file.write_text(file.read_text(encoding="utf-8").replace("### Response:\\n' -}}", "### Response: \\n' -}}"))
    assert compared(published, other).equal_prompts == 0


def test_other_weights_are_caught_by_loss_and_texts(tiny_model: Path, tmp_path: Path) -> None:
    published, other = publish(tiny_model, tmp_path / "published"), publish(tiny_model, tmp_path / "other")
    model = AutoModelForCausalLM.from_pretrained(other, dtype=torch.bfloat16)
    torch.manual_seed(1)
    with torch.no_grad():
        down = model.model.layers[0].mlp.down_proj.weight
        down += 0.2 * torch.randn_like(down)
    model.save_pretrained(other)
    found = compared(published, other)
    assert found.equal_prompts == 2
    assert abs(found.loss_change) > 0.01
    assert found.equal_texts < 2
    for one in found.differences:
        assert one.our_gap > 0
        assert one.their_gap > 0
        assert one.ours != one.theirs
        assert not one.is_tie
    assert any("greedy texts differ" in problem for problem in found.problems("f16"))
    assert any("its loss is" in problem for problem in found.problems("q8_0"))


def test_without_llama_cpp_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "cefr_batch.export.llama_cpp", raising=False)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    place = str(tmp_path)
    request = CheckRequest(
        gguf=place, merged=place, dataset=place, prompt="alpaca", max_length=1, examples=1, max_new_tokens=1
    )
    answer = verify(request)
    assert answer.check is None
    assert answer.not_verified.startswith("llama.cpp could not be used on the machine that made this file (")
    assert answer.not_verified.endswith("--no-cache-dir llama-cpp-python), then export once more")


# What is a problem, for which type.


def difference(our_gap: float, their_gap: float) -> TextDifference:
    return TextDifference(example=0, token=3, ours=" a", theirs=" the", our_gap=our_gap, their_gap=their_gap)


@pytest.mark.parametrize(
    ("gaps", "tie"), [((0.01, 0.02), True), ((TIE, TIE), True), ((TIE * 1.01, 0.0), False), ((0.0, 3.0), False)]
)
def test_a_tie_is_one_in_both_programs(gaps: tuple[float, float], tie: bool) -> None:
    one = check(equal_texts=19, differences=[difference(*gaps)])
    assert one.ties == int(tie)
    assert list(one.problems("f16")) == (
        [] if tie else ["1 of 20 greedy texts differ from the merged model's, by more than a tie"]
    )
    assert list(one.problems("q8_0")) == [], "rounding to 8 bits may change words; the loss says how much"


@pytest.mark.parametrize(
    ("type_", "loss", "wrong"),
    [
        ("f16", 1.004, False),
        ("f16", 1.006, True),
        ("f16", 0.99, True),
        ("q8_0", 1.0099, False),
        ("q8_0", 1.011, True),
        ("q8_0", float("inf"), True),
        ("q4_k_m", 1.3, False),
    ],
)
def test_how_far_the_loss_may_be(type_: str, loss: float, wrong: bool) -> None:
    found = check().model_copy(update={"exported_loss": loss})
    assert bool(list(found.problems(type_))) is wrong  # type: ignore[arg-type]


def test_a_text_that_does_not_end_is_a_problem_of_every_type() -> None:
    for type_ in ("f16", "q8_0", "q4_k_m"):
        assert list(check(ends=False).problems(type_)) == [
            "it does not stop at the token that closes a trained response"
        ]
