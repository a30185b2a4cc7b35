"""Must show: many prompts at once give the text of one prompt at a time, greedily and sampled."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cefr_batch.data import prompt_of
from cefr_batch.data.build import build_examples
from cefr_batch.data.pairs import read_pairs
from cefr_batch.errors import ModelError
from cefr_batch.levels import Level
from cefr_batch.run.generate import Sampling, generate, generate_from
from cefr_batch.run.model import load_for_evaluation, load_tokenizer
from cefr_batch.spec import load_spec

SAMPLING = Sampling(temperature=1.0, top_p=0.95, seed=7)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    """Ends its texts at different lengths: end-of-text is made more probable than random weights make it."""
    model = load_for_evaluation(tiny_model)
    model.lm_head = torch.nn.Linear(32, model.config.vocab_size, bias=True)
    torch.manual_seed(1)
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.randn_like(model.lm_head.weight) * 0.3)
        model.lm_head.bias.zero_()
        model.lm_head.bias[0] = 1.5
    return model.eval()


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    """Of 1 to 4 words, in no order of length."""
    pairs = read_pairs("starter", Level.B1)
    chosen = []
    for words in (3, 1, 4, 2):
        overrides = ["data.examples=4", f"data.words_per_example={words}"]
        spec = load_spec("B1", overrides=overrides)
        chosen += [prompt_of(example) for example in build_examples(pairs, spec.data, spec.level)[0]]
    return chosen


def one_by_one(model: Any, tokenizer: Any, prompt: str, tokens: int) -> str:
    """Greedily, each token from a pass over everything before it: no cache, no padding, no shared code."""
    ids = tokenizer(prompt).input_ids
    start = len(ids)
    while len(ids) < start + tokens:
        with torch.inference_mode():
            best = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if best == tokenizer.eos_token_id:
            break
        ids.append(best)
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True))


def test_greedy_text_is_that_of_one_prompt_at_a_time(model: Any, tokenizer: Any, prompts: list[str]) -> None:
    expected = [one_by_one(model, tokenizer, prompt, 24) for prompt in prompts]
    assert len({len(text) for text in expected}) > 3, "some should end early"
    for size in (1, 5, len(prompts)):
        assert generate(model, tokenizer, prompts, max_new_tokens=24, batch_size=size) == expected


def test_sampled_text_depends_on_the_seed_and_not_on_the_batch(model: Any, tokenizer: Any, prompts: list[str]) -> None:
    def sampled(size: int, seed: int) -> list[str]:
        sampling = Sampling(SAMPLING.temperature, SAMPLING.top_p, seed)
        return generate(model, tokenizer, prompts, max_new_tokens=24, batch_size=size, sampling=sampling)

    first = sampled(4, 7)
    assert sampled(1, 7) == sampled(len(prompts), 7) == first
    assert sampled(4, 8) != first
    assert generate(model, tokenizer, prompts, max_new_tokens=24, batch_size=4) != first


def test_the_same_prompt_twice_is_sampled_anew(model: Any, tokenizer: Any, prompts: list[str]) -> None:
    texts = generate(model, tokenizer, prompts[:1] * 8, max_new_tokens=8, batch_size=8, sampling=SAMPLING)
    assert len(set(texts)) > 4


def test_samples_have_the_probabilities_of_the_softmax_within_top_p(
    model: Any, tokenizer: Any, prompts: list[str]
) -> None:
    """2,000 first tokens against the model's own distribution, cut and renormalized here."""
    draws = 2000
    sampling = Sampling(temperature=0.8, top_p=0.6, seed=3)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([tokenizer(prompts[0]).input_ids])).logits[0, -1]
    wanted, order = torch.softmax(logits / 0.8, 0).sort(descending=True)
    kept = int((wanted.cumsum(0) - wanted < 0.6).sum())
    expected = wanted[:kept] / wanted[:kept].sum()
    texts = generate(model, tokenizer, prompts[:1] * draws, max_new_tokens=1, batch_size=draws, sampling=sampling)
    by_text: dict[str, float] = {}  # several tokens are a byte that is no text of its own
    for token, probability in zip(order[:kept], expected, strict=True):
        text = tokenizer.decode([int(token)], skip_special_tokens=True)
        by_text[text] = by_text.get(text, 0.0) + float(probability)
    assert set(texts) <= set(by_text)
    assert len(by_text) > 5
    for text, probability in by_text.items():
        error = (probability * (1 - probability) / draws) ** 0.5
        assert texts.count(text) / draws == pytest.approx(probability, abs=5 * error)


def test_a_batch_that_does_not_fit_is_halved(
    model: Any, tokenizer: Any, prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake: no memory is short; more than three rows raise what torch would raise."""
    whole, seen = model.generate, []

    def scarce(input_ids: torch.Tensor, **inputs: Any) -> Any:
        seen.append(len(input_ids))
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. (A test's fake.)")
        return whole(input_ids=input_ids, **inputs)

    expected = generate(model, tokenizer, prompts, max_new_tokens=6, batch_size=8)
    monkeypatch.setattr(model, "generate", scarce)
    done: list[int] = []
    texts = generate(model, tokenizer, prompts, max_new_tokens=6, batch_size=8, on_batch=lambda n, of: done.append(n))
    assert texts == expected
    assert done == sorted(done)
    assert done[-1] == len(prompts)
    assert max(seen) == 8
    monkeypatch.setattr(model, "generate", lambda **_: scarce(torch.zeros(9, 1)))
    with pytest.raises(torch.OutOfMemoryError):
        generate(model, tokenizer, prompts, max_new_tokens=6, batch_size=8)


def test_the_baseline_writes_without_the_adapter_and_the_tuned_model_with_it_in_its_weights(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both before any forward pass: one that runs out of memory is repeated, and must not leave half of it."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    from cefr_batch.run import stages

    adapted = get_peft_model(load_for_evaluation(tiny_model), LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    adapted.merge_adapter()  # as the stage before leaves it
    layers = [layer for layer in adapted.modules() if isinstance(layer, LoraLayer)]
    seen: list[set[tuple[bool, bool]]] = []

    def written(model: Any, tokenizer: Any, prompts: list[str], **_: Any) -> list[str]:
        seen.append({(bool(layer.merged), bool(layer.disable_adapters)) for layer in layers})
        return ["1. A cat."] * len(prompts)

    monkeypatch.setattr("cefr_batch.run.generate.generate", written)
    spec = load_spec("A2", overrides=["generation.examples=2"])
    examples = build_examples(read_pairs("starter", Level.A2), spec.data, spec.level)[1]
    job = SimpleNamespace(adapted=adapted, evaluated=examples, spec=spec, trained=set(), tokenizer=None, progress=None)
    stages.generate(job)  # type: ignore[arg-type]
    assert seen == [{(False, True)}] * 2 + [{(True, False)}] * 2


def test_a_model_that_does_not_fit_is_a_sentence(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake: there is no GPU here to run out of memory."""

    def full(folder: Path) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("cefr_batch.run.generate.load_for_evaluation", full)
    with pytest.raises(ModelError, match=r"the GPU's memory does not suffice for .*CUDA_VISIBLE_DEVICES= before"):
        generate_from(tiny_model, "a cat", 4, None)
