"""Must show: many prompts at once give the text of one prompt at a time, greedily and sampled."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.prompts import CHATML, alpaca, make_chat_model

from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import Level
from cefr_batch.data import Dataset, Example
from cefr_batch.data.build import build_examples
from cefr_batch.data.pairs import read_pairs
from cefr_batch.errors import ModelError
from cefr_batch.evaluation.generation import Sampling, Text, generate, generate_from, stream
from cefr_batch.models.loading import load_for_evaluation, load_tokenizer

ALPACA = alpaca()
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
def examples() -> list[Example]:
    """Of 1 to 4 words, in no order of length."""
    pairs = read_pairs("starter", Level.B1)
    chosen = []
    for words in (3, 1, 4, 2):
        overrides = ["data.examples=4", f"data.words_per_example={words}"]
        spec = load_spec("B1", overrides=overrides)
        chosen += build_examples(pairs, spec.data, spec.level)[0]
    return chosen


def one_by_one(model: Any, tokenizer: Any, example: Example, tokens: int) -> str:
    """Greedily, each token from a pass over everything before it: no cache, no padding, no shared code."""
    ids = tokenizer(ALPACA.prompt(example)).input_ids
    start = len(ids)
    while len(ids) < start + tokens:
        with torch.inference_mode():
            best = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if best == tokenizer.eos_token_id:
            break
        ids.append(best)
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True))


def test_greedy_text_is_that_of_one_prompt_at_a_time(model: Any, tokenizer: Any, examples: list[Example]) -> None:
    expected = [one_by_one(model, tokenizer, example, 24) for example in examples]
    assert len({len(text) for text in expected}) > 3, "some should end early"
    for size in (1, 5, len(examples)):
        assert generate(model, tokenizer, ALPACA, examples, max_new_tokens=24, batch_size=size) == expected


def test_sampled_text_depends_on_the_seed_and_not_on_the_batch(
    model: Any, tokenizer: Any, examples: list[Example]
) -> None:
    def sampled(size: int, seed: int) -> list[str]:
        sampling = Sampling(SAMPLING.temperature, SAMPLING.top_p, seed)
        return generate(model, tokenizer, ALPACA, examples, max_new_tokens=24, batch_size=size, sampling=sampling)

    first = sampled(4, 7)
    assert sampled(1, 7) == sampled(len(examples), 7) == first
    assert sampled(4, 8) != first
    assert generate(model, tokenizer, ALPACA, examples, max_new_tokens=24, batch_size=4) != first


def test_the_same_prompt_twice_is_sampled_anew(model: Any, tokenizer: Any, examples: list[Example]) -> None:
    texts = generate(model, tokenizer, ALPACA, examples[:1] * 8, max_new_tokens=8, batch_size=8, sampling=SAMPLING)
    assert len(set(texts)) > 4


@pytest.mark.slow
def test_samples_have_the_probabilities_of_the_softmax_within_top_p(
    model: Any, tokenizer: Any, examples: list[Example]
) -> None:
    """2,000 first tokens against the model's own distribution, cut and renormalized here."""
    draws = 2000
    sampling = Sampling(temperature=0.8, top_p=0.6, seed=3)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([tokenizer(ALPACA.prompt(examples[0])).input_ids])).logits[0, -1]
    wanted, order = torch.softmax(logits / 0.8, 0).sort(descending=True)
    kept = int((wanted.cumsum(0) - wanted < 0.6).sum())
    expected = wanted[:kept] / wanted[:kept].sum()
    texts = generate(
        model, tokenizer, ALPACA, examples[:1] * draws, max_new_tokens=1, batch_size=draws, sampling=sampling
    )
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
    model: Any, tokenizer: Any, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake: no memory is short; more than three rows raise what torch would raise."""
    whole, seen = model.generate, []

    def scarce(input_ids: torch.Tensor, **inputs: Any) -> Any:
        seen.append(len(input_ids))
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. (A test's fake.)")
        return whole(input_ids=input_ids, **inputs)

    expected = generate(model, tokenizer, ALPACA, examples, max_new_tokens=6, batch_size=8)
    monkeypatch.setattr(model, "generate", scarce)
    done: list[int] = []
    texts = generate(
        model, tokenizer, ALPACA, examples, max_new_tokens=6, batch_size=8, on_batch=lambda n, of: done.append(n)
    )
    assert texts == expected
    assert done == sorted(done)
    assert done[-1] == len(examples)
    assert max(seen) == 8
    monkeypatch.setattr(model, "generate", lambda **_: scarce(torch.zeros(9, 1)))
    with pytest.raises(torch.OutOfMemoryError):
        generate(model, tokenizer, ALPACA, examples, max_new_tokens=6, batch_size=8)


@pytest.mark.slow
def test_answers_that_reach_the_limit_are_told(model: Any, tokenizer: Any, examples: list[Example]) -> None:
    """Those that go on when they are given more tokens, whatever else is in their batch."""
    longer = generate(model, tokenizer, ALPACA, examples, max_new_tokens=200, batch_size=len(examples))
    tokens = sorted(len(tokenizer(text).input_ids) for text in longer)[len(examples) // 2]
    for size in (1, len(examples)):
        cut: list[int] = []
        texts = generate(model, tokenizer, ALPACA, examples, max_new_tokens=tokens, batch_size=size, on_cut=cut.append)
        unfinished = [i for i, text in enumerate(texts) if text != longer[i]]
        assert sorted(cut) == unfinished
        assert 0 < len(cut) < len(examples)


def test_the_stage_counts_answers_that_were_cut_off(tiny_model: Path) -> None:
    from cefr_batch.job.stages import generate as stage

    result = stage.run(job(tiny_model, adapted_model(tiny_model), progress=[]))
    assert result.generation
    assert result.texts
    assert result.generation.tuned.greedy.cut_percent == 100, "four tokens end no answer"
    assert [one.tuned.cut for one in result.texts.examples] == [["greedy", "sampled"]] * 2


def test_the_baseline_writes_without_the_adapter_and_the_tuned_model_with_it_in_its_weights(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both before any forward pass: one that runs out of memory is repeated, and must not leave half of it."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    from cefr_batch.job.stages import generate as stage

    adapted = get_peft_model(load_for_evaluation(tiny_model), LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    adapted.merge_adapter()  # as the stage before leaves it
    layers = [layer for layer in adapted.modules() if isinstance(layer, LoraLayer)]
    seen: list[set[tuple[bool, bool]]] = []

    def written(model: Any, tokenizer: Any, prompts: Any, examples: list[Example], **_: Any) -> list[str]:
        seen.append({(bool(layer.merged), bool(layer.disable_adapters)) for layer in layers})
        return ["1. A cat."] * len(examples)

    monkeypatch.setattr("cefr_batch.evaluation.generation.generate", written)
    stage.run(job(tiny_model, adapted, progress=[]))
    assert seen == [{(False, True)}] * 2 + [{(True, False)}] * 2


def job(folder: Path, model: Any, progress: list[tuple[int, int]]) -> Any:
    """What the stage takes of a job: two examples to answer, a model in a folder."""
    spec = load_spec("A2", overrides=["generation.examples=2", "generation.max_new_tokens=4", "data.examples=40"])
    train, evaluation = build_examples(read_pairs("starter", Level.A2), spec.data, spec.level)
    return SimpleNamespace(
        tuned_model=model,
        model_path=folder,
        evaluated=evaluation,
        dataset=Dataset(tuple(train), tuple(evaluation)),
        spec=spec,
        train_sentences=set(),
        tokenizer=load_tokenizer(folder),
        prompts=ALPACA,
        progress=SimpleNamespace(count=lambda done, of: progress.append((done, of))),
    )


@pytest.fixture
def chat_model(tiny_model: Path, tmp_path: Path) -> Path:
    return make_chat_model(tiny_model, tmp_path / "chat", CHATML, around="<bos> $A")


def adapted_model(folder: Path) -> Any:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load_for_evaluation(folder), LoraConfig(r=2, target_modules=["q_proj"]))
    model.merge_adapter()
    return model


def test_the_untrained_model_is_also_asked_in_plain_words_without_and_with_examples(
    chat_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way is answered greedily and sampled; all count as one in the job's progress."""
    from cefr_batch.evaluation import generation
    from cefr_batch.job.stages import generate as stage

    real = generation.generate
    asked: list[tuple[str, bool]] = []
    progress: list[tuple[int, int]] = []

    def recorded(model: Any, tokenizer: Any, prompts: Any, examples: list[Example], **settings: Any) -> list[str]:
        asked.append((prompts.prompt(examples[0]), settings["sampling"] is not None))
        return real(model, tokenizer, prompts, examples, **settings)

    monkeypatch.setattr(generation, "generate", recorded)
    this = job(chat_model, adapted_model(chat_model), progress)
    result = stage.run(this)
    assert [sampled for _, sampled in asked] == [False, True] * 4
    baseline, zero_shot, few_shot, tuned = (text for text, _ in asked[::2])
    assert baseline == tuned == ALPACA.prompt(this.evaluated[0])
    assert zero_shot.startswith("<|im_start|>user\nWrite one English sentence for each word of this list.")
    assert few_shot.endswith(zero_shot)
    assert few_shot.count("<|im_start|>assistant") == 4
    assert this.dataset.train[0].output in few_shot
    assert progress == sorted(progress)
    assert progress[0] == (0, progress[-1][0]), "before the first batch, which takes a while"
    assert progress[-1] == (16, 16)

    assert result.texts
    assert result.generation
    assert result.levels
    (example, _) = result.texts.examples
    assert example.zero_shot
    assert example.few_shot
    texts = {example.baseline.greedy, example.zero_shot.greedy, example.few_shot.greedy}
    assert len(texts) == 3, "the random model answers each prompt otherwise"
    assert result.generation.zero_shot
    assert result.generation.few_shot
    assert result.generation.zero_shot.greedy.answers == result.generation.few_shot.sampled.answers == 2
    assert result.generation.missing == {}
    assert result.levels.zero_shot is not None


@pytest.mark.parametrize(
    ("template", "limit", "reason", "told"),
    [
        (None, 2048, "no_chat_template", "the tokenizer in .* has no chat template"),
        (CHATML.replace("<|im_end|>", " END"), 2048, "unusable_chat_template", "it closes an answer with 'END"),
        (
            CHATML,
            150,
            "too_long",
            r"a prompt of [\d,]+ tokens and generation.max_new_tokens \(4\) are more than the 150",
        ),
    ],
)
def test_why_the_untrained_model_was_not_asked_is_logged_and_recorded(
    template: str | None,
    limit: int,
    reason: str,
    told: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from cefr_batch.job.stages import generate as stage

    folder = make_chat_model(tiny_model, tmp_path / "chat", template)
    model = adapted_model(folder)
    model.config.max_position_embeddings = limit
    progress: list[tuple[int, int]] = []
    result = stage.run(job(folder, model, progress))
    assert result.texts
    assert result.generation
    assert result.generation.missing == {"zero_shot": reason, "few_shot": reason}
    assert result.generation.zero_shot is None
    assert all(one.zero_shot is one.few_shot is None for one in result.texts.examples)
    assert progress[-1] == (8, 8)
    for way in ("zero-shot", "few-shot"):
        assert re.search(f"warning: the untrained model is not asked {way}: .*{told}", caplog.text)


def test_a_model_that_does_not_fit_is_a_sentence(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake: there is no GPU here to run out of memory."""

    def full(folder: Path) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("cefr_batch.evaluation.generation.load_for_evaluation", full)
    with pytest.raises(
        ModelError, match=r"not enough GPU memory to run the model in .*CUDA_VISIBLE_DEVICES='' cefr-batch"
    ):
        generate_from(tiny_model, ALPACA, Example("a cat", "", ""), 4, None)


def streamed(model: Any, tokenizer: Any, examples: list[Example], sampling: Sampling | None) -> list[list[Text]]:
    """What was told after each token."""
    told: list[list[Text]] = []
    stream(
        model,
        tokenizer,
        ALPACA,
        examples,
        max_new_tokens=24,
        sampling=sampling,
        on_token=lambda texts: told.append(texts),
    )
    return told


def test_a_stream_grows_to_what_is_written_at_once(model: Any, tokenizer: Any, examples: list[Example]) -> None:
    chosen = examples[:6]
    whole = generate(model, tokenizer, ALPACA, chosen, max_new_tokens=24, batch_size=6)
    told = streamed(model, tokenizer, chosen, None)
    assert [text.text for text in told[-1]] == whole
    assert len(told) > 5
    for row, text in enumerate(whole):
        growing = [texts[row].text for texts in told]
        assert all(later.startswith(earlier.rstrip("\ufffd")) for earlier, later in pairwise(growing))
        ends = [texts[row].ended for texts in told]
        assert ends == sorted(ends)
        assert growing[ends.index(True) if True in ends else -1] == text
    assert {text.ended for text in told[-1]} == {True, False}


def test_a_sampled_stream_depends_on_its_own_prompt_alone(model: Any, tokenizer: Any, examples: list[Example]) -> None:
    together = streamed(model, tokenizer, examples[:3], SAMPLING)[-1]
    alone = [streamed(model, tokenizer, [example], SAMPLING)[-1][0] for example in examples[:3]]
    assert together == alone
    assert alone[0].text == generate_sampled(model, tokenizer, examples[0])


def generate_sampled(model: Any, tokenizer: Any, example: Example) -> str:
    """As the command `generate --sample` has it written."""
    (text,) = generate(model, tokenizer, ALPACA, [example], max_new_tokens=24, batch_size=1, sampling=SAMPLING)
    return text


def test_whoever_listens_to_a_stream_ends_it(model: Any, tokenizer: Any, examples: list[Example]) -> None:
    told: list[list[Text]] = []

    class Enough(Exception):
        pass

    def listen(texts: list[Text]) -> None:
        told.append(texts)
        if len(told) == 3:
            raise Enough

    with pytest.raises(Enough):
        stream(model, tokenizer, ALPACA, examples[:2], max_new_tokens=24, sampling=None, on_token=listen)
    assert len(told) == 3
