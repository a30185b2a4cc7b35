"""Must show: losses do not depend on batching, and equal independent computations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.prompts import alpaca

from cefr_batch.config.schema import Level
from cefr_batch.data import Example
from cefr_batch.data.encoding import Encoded, encode
from cefr_batch.data.examples import sentences_in
from cefr_batch.data.pairs import read_pairs
from cefr_batch.evaluation.losses import evaluate
from cefr_batch.models.loading import load_for_evaluation, load_tokenizer

ALPACA = alpaca()


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return load_for_evaluation(tiny_model)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Eleven examples of different lengths: the last group of four is not full."""
    pairs = read_pairs("starter", Level.B2)
    groups = [pairs[i * 7 : i * 7 + 1 + i % 5] for i in range(11)]
    return [
        Example(
            instruction="Write:\n" + "\n".join(f"{n}. {p.word}" for n, p in enumerate(group, 1)),
            input="",
            output="\n".join(f"{n}. {p.sentence}" for n, p in enumerate(group, 1)),
        )
        for group in groups
    ]


@pytest.fixture(scope="module")
def encoded(tokenizer: Any, examples: list[Example]) -> list[Encoded]:
    return encode(tokenizer, ALPACA, examples, max_length=512)


def token_by_token(model: Any, ids: list[int]) -> list[float]:
    """Each token's negative log-likelihood, one growing prefix at a time: no batch, no padding, no shared code."""
    losses = []
    for t in range(1, len(ids)):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids[:t]])).logits[0, -1].double()
        losses.append(float(torch.logsumexp(logits, 0) - logits[ids[t]]))
    return losses


def test_batch_size_and_padding_side_do_not_change_the_loss(model: Any, encoded: list[Encoded]) -> None:
    results = [
        evaluate(model, encoded, pad_id=1, end_id=0, batch_size=size, padding_side=side)
        for size in (1, 4, 16)
        for side in ("right", "left")
    ]
    for name in ("full", "response"):
        losses = [getattr(r.losses, name).loss for r in results]
        assert max(losses) - min(losses) < 1e-5
        assert len({getattr(r.losses, name).tokens for r in results}) == 1
    seed = [r.losses.seed_protocol.loss for r in results]
    assert max(seed) - min(seed) < 1e-5


@pytest.mark.slow
def test_full_and_response_equal_a_token_by_token_computation(
    model: Any, tokenizer: Any, examples: list[Example], encoded: list[Encoded]
) -> None:
    full: list[float] = []
    response: list[float] = []
    for example in examples:
        ids = tokenizer(ALPACA.text(example)).input_ids
        prompt_tokens = len(tokenizer(ALPACA.prompt(example)).input_ids)
        losses = token_by_token(model, ids)
        full += losses
        response += losses[prompt_tokens - 1 :]
    result = evaluate(model, encoded, pad_id=1, end_id=0, batch_size=4)
    assert result.losses.full.tokens == len(full)
    assert result.losses.response.tokens == len(response)
    assert result.losses.full.loss == pytest.approx(math.fsum(full) / len(full), abs=1e-5)
    assert result.losses.response.loss == pytest.approx(math.fsum(response) / len(response), abs=1e-5)
    assert result.losses.full.perplexity == pytest.approx(math.exp(result.losses.full.loss))


def test_seed_protocol_equals_a_straightforward_reimplementation(
    model: Any, tokenizer: Any, examples: list[Example], encoded: list[Encoded]
) -> None:
    """Texts without end-of-text, in batches of 4 in file order, padded on the right, labels = input ids, so that padding
    counts in each batch's mean; batches weighted by their real tokens."""
    texts = [ALPACA.prompt(e) + e.output for e in examples]
    total = tokens = 0.0
    for start in range(0, len(texts), 4):
        batch = tokenizer(texts[start : start + 4], padding=True, padding_side="right", return_tensors="pt")
        with torch.inference_mode():
            loss = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.input_ids).loss
        real = int(batch.attention_mask.sum())
        total += float(loss) * real
        tokens += real
    result = evaluate(model, encoded, pad_id=tokenizer.pad_token_id, end_id=tokenizer.eos_token_id, batch_size=16)
    assert result.losses.seed_protocol.loss == pytest.approx(total / tokens, abs=1e-5)
    assert abs(result.losses.seed_protocol.loss - result.losses.full.loss) > 1e-3, (
        "the two should differ where there is padding"
    )


def test_truncation_cuts_the_end_and_the_response_may_be_gone(tokenizer: Any, examples: list[Example]) -> None:
    whole = encode(tokenizer, ALPACA, examples[4:5], max_length=512)[0]
    cut = encode(tokenizer, ALPACA, examples[4:5], max_length=8)[0]
    assert cut.ids == whole.ids[:8]
    assert cut.response_start == 8 < whole.response_start


def test_end_of_text_is_a_target_of_the_response(tokenizer: Any, examples: list[Example]) -> None:
    encoded = encode(tokenizer, ALPACA, examples[:1], max_length=512)[0]
    assert encoded.ids[-1] == tokenizer.eos_token_id
    assert encoded.response_start < len(encoded.ids)


@pytest.mark.slow
def test_seen_and_unseen_sentences_equal_a_token_by_token_computation(
    model: Any, tokenizer: Any, examples: list[Example]
) -> None:
    """Half of the sentences are in the training data. A token is of a sentence if the text up to it has a character of
    the sentence that the text before it lacks: found by decoding, not by offsets."""
    sentences = [sentence for example in examples for sentence in sentences_in(example)]
    trained = set(sentences[::2])
    sums: dict[bool, list[float]] = {True: [], False: []}
    for example in examples:
        ids = tokenizer(ALPACA.text(example)).input_ids
        losses = token_by_token(model, ids)
        owner = owners(example)
        for t in range(1, len(ids)):
            characters = range(len(tokenizer.decode(ids[:t])), len(tokenizer.decode(ids[: t + 1])))
            of = {owner[c] for c in characters if c in owner}
            for sentence in of:
                sums[sentence in trained].append(losses[t - 1])
    result = evaluate(model, encode(tokenizer, ALPACA, examples, 512, trained), pad_id=1, end_id=0, batch_size=4)
    seen, unseen = result.losses.seen, result.losses.unseen
    assert seen
    assert unseen
    for score, expected in ((seen, sums[True]), (unseen, sums[False])):
        assert score.tokens == len(expected) > 50
        assert score.loss == pytest.approx(math.fsum(expected) / len(expected), abs=1e-5)
    assert seen.tokens + unseen.tokens < result.losses.response.tokens, "numbers and line ends are of no sentence"


def owners(example: Example) -> dict[int, str]:
    """Each character of the whole text that is of a sentence, and the sentence; white space between them is of none."""
    text, at = ALPACA.prompt(example) + example.output, len(ALPACA.prompt(example))
    owner: dict[int, str] = {}
    for sentence in sentences_in(example):
        at = text.index(sentence, at)
        owner |= dict.fromkeys(range(at, at + len(sentence)), sentence)
        at += len(sentence)
    return owner


def test_a_part_without_tokens_has_no_loss_and_the_sums_by_example_are_those_of_the_whole(
    model: Any, encoded: list[Encoded]
) -> None:
    result = evaluate(model, encoded, pad_id=1, end_id=0, batch_size=4)
    assert result.losses.seen is None
    assert len(result.examples) == len(encoded)
    for part in ("full", "response", "unseen"):
        score = getattr(result.losses, part)
        assert sum(getattr(example.tokens, part) for example in result.examples) == score.tokens
        assert math.fsum(getattr(example.nll, part) for example in result.examples) / score.tokens == score.loss


def test_a_sentence_has_the_same_number_wherever_it_stands_and_its_loss_is_its_tokens(
    model: Any, tokenizer: Any, examples: list[Example]
) -> None:
    repeated = [*examples, Example(examples[1].instruction, "", examples[0].output)]
    encoded = encode(tokenizer, ALPACA, repeated, 512)
    result = evaluate(model, encoded, pad_id=1, end_id=0, batch_size=4)
    different = list(dict.fromkeys(sentence for example in repeated for sentence in sentences_in(example)))
    for example, score in zip(repeated, result.examples, strict=True):
        assert [one.number for one in score.sentences] == [different.index(text) for text in sentences_in(example)]
        assert sum(one.tokens for one in score.sentences) == score.tokens.unseen
        assert math.fsum(one.nll for one in score.sentences) == pytest.approx(score.nll.unseen)


def whole_logits(model: Any, encoded: list[Encoded]) -> float:
    """The plain way: one example at a time, all logits at once."""
    total = tokens = 0.0
    for example in encoded:
        ids = torch.tensor([example.ids])
        with torch.inference_mode():
            total += float(model(input_ids=ids, labels=ids).loss) * (len(example.ids) - 1)
        tokens += len(example.ids) - 1
    return total / tokens


@pytest.mark.parametrize("words", [1, 50, 100_000])
def test_logits_in_pieces_give_the_loss_of_whole_logits(
    model: Any, encoded: list[Encoded], monkeypatch: pytest.MonkeyPatch, words: int
) -> None:
    """Pieces of 1 word of the vocabulary for all tokens of the batch (fewer than 400), of about 50, of all."""
    monkeypatch.setattr("cefr_batch.evaluation.losses.EVALUATION_LOGITS", 4 * 400 * words)
    result = evaluate(model, encoded, pad_id=1, end_id=0, batch_size=4)
    assert result.losses.full.loss == pytest.approx(whole_logits(model, encoded), abs=1e-5)


def test_an_adapter_in_the_weights_or_switched_off_changes_no_loss(tiny_model: Path, encoded: list[Encoded]) -> None:
    """One load for both: to 1e-4, as asked of the evaluation of baseline and tuned model."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    adapted = get_peft_model(load_for_evaluation(tiny_model), config).eval()
    base = whole_logits(load_for_evaluation(tiny_model), encoded)
    tuned = evaluate(adapted, encoded, pad_id=1, end_id=0, batch_size=4).losses.full.loss
    with adapted.disable_adapter():
        assert evaluate(adapted, encoded, pad_id=1, end_id=0, batch_size=4).losses.full.loss == pytest.approx(
            base, abs=1e-5
        )
    assert tuned == pytest.approx(whole_logits(adapted, encoded), abs=1e-5)
    assert abs(tuned - base) > 0.01
    adapted.merge_adapter()
    assert evaluate(adapted, encoded, pad_id=1, end_id=0, batch_size=4).losses.full.loss == pytest.approx(
        tuned, abs=1e-5
    )
    with adapted.disable_adapter():
        assert evaluate(adapted, encoded, pad_id=1, end_id=0, batch_size=4).losses.full.loss == pytest.approx(
            base, abs=1e-5
        )


def test_a_model_that_caps_its_logits_is_evaluated_as_it_is(encoded: list[Encoded]) -> None:
    """Gemma 2 squeezes its logits after the head; pieces of bare head outputs would be wrong."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 16,
    }
    config = Gemma2Config(
        vocab_size=600, num_key_value_heads=1, final_logit_softcapping=0.5, initializer_range=0.5, **sizes
    )
    model = Gemma2ForCausalLM(config).eval()
    expected = whole_logits(model, encoded)
    assert evaluate(model, encoded, pad_id=1, end_id=0, batch_size=4).losses.full.loss == pytest.approx(
        expected, abs=1e-5
    )
