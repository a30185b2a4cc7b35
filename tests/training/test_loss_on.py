"""Must show: loss_on: response is masking by hand, whatever micro-batches and processes share a step; 4 x 4 is 16 x 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.job_runs import start_training, trained, work_folder

from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import Level
from cefr_batch.data import Example, load_dataset, prompt_format
from cefr_batch.data.examples import list_format
from cefr_batch.errors import JobFailed
from cefr_batch.job.context import StageContext
from cefr_batch.job.stages import run_stage
from cefr_batch.training import callbacks
from cefr_batch.training import trainer as training

# Answers of very different lengths: a mean over micro-batches would be another number.
EXAMPLES = [Example(f"Write sentence {n}.", "house", "A house. " * n) for n in (1, 2, 3, 5, 8, 13, 21, 34)]
ONE_STEP = ["backend=peft", "training.max_steps=1", "training.eval_steps=1", "training.logging_steps=1"]
ONE_STEP += ["lora.rank=4", "lora.dropout=0.0", "training.precision=fp32", "training.loss_on=response"]
SHAPES = [(8, 1, 1), (2, 4, 1), (2, 4, 2)]  # rows, accumulation, processes: always these eight examples


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings: all examples are one step and one evaluation."""
    file = tmp_path_factory.mktemp("data") / "examples.json"
    file.write_bytes(list_format(EXAMPLES))
    other = file.with_name("eval.json")
    other.write_bytes(
        list_format([Example("Write one.", "tree", "A tree. "), Example("Write two.", "sea", "Sea. " * 20)])
    )
    return [f"data.train={file}", f"data.eval={other}", "evaluation.batch_size=8"]


def by_hand(model: Path, examples: list[Example], adapted: Any = None) -> Any:
    """The mean loss over the tokens after each prompt, from plain log-probabilities, one example at a time: a tensor."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = adapted or AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    total, tokens = torch.tensor(0.0), 0
    for example in examples:
        prompt = f"### Instruction:\n{example.instruction}\n\n### Input:\n{example.input}\n\n### Response:\n"
        text = tokenizer(prompt + example.output + tokenizer.eos_token, return_offsets_mapping=True)
        ids = torch.tensor(text.input_ids)
        logs = network(input_ids=ids[None]).logits[0].log_softmax(-1)
        answer = [t for t, (_, end) in enumerate(text.offset_mapping) if end > len(prompt)]
        total = total - logs[[t - 1 for t in answer], ids[answer]].sum()
        tokens += len(answer)
    return total / tokens


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "accumulation", "processes"), SHAPES)
def test_the_loss_and_its_gradient_are_those_of_a_mask_made_by_hand(
    tiny_model: Path, tmp_path: Path, eight: list[str], rows: int, accumulation: int, processes: int
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    shape = [f"training.batch_size={rows}", f"training.gradient_accumulation_steps={accumulation}"]
    overrides = [f"model.name={tiny_model}", *ONE_STEP, *eight, *shape, f"resources.gpus={processes}"]
    spec = load_spec("A1", overrides=overrides)
    work = work_folder(tmp_path / "run", spec)
    process = start_training(work)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    first = trained(work).log[0]

    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    set_seed(spec.training.seed)
    lora = LoraConfig(r=4, lora_alpha=spec.lora.alpha, target_modules=spec.lora.target_modules, task_type="CAUSAL_LM")
    adapted = get_peft_model(base, lora)
    loss = by_hand(tiny_model, EXAMPLES, adapted)
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in adapted.parameters() if p.grad is not None]).norm()
    assert first.loss == pytest.approx(loss.item(), rel=1e-6)
    assert first.gradient_norm == pytest.approx(norm.item(), rel=1e-5)  # a root of a sum of squares
    whole = trained_with(tiny_model, tmp_path / "all", *eight, *shape, "training.loss_on=all").log[0]
    assert abs(whole.loss - loss.item()) > 1e-2, "the counterpart, without a mask, is another number"


def trained_with(model: Path, folder: Path, *overrides: str) -> Any:
    work = work_folder(folder, load_spec("A1", overrides=[f"model.name={model}", *ONE_STEP, *overrides]))
    run_stage(StageContext(work), "train")
    return trained(work)


@pytest.mark.slow
def test_each_weights_gradient_and_the_evaluation_follow_the_mask(
    tiny_model: Path, tmp_path: Path, eight: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four micro-batches of two. The gradients are read where the trainer has them, clipped to a norm of 1."""
    import torch

    seen: dict[str, Any] = {}

    def look(self: Any, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        seen.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
        loss = by_hand(tiny_model, EXAMPLES, model)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert len(seen) == 2 * 7 * 2  # layers, modules, matrices
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                assert torch.allclose(seen[name], parameter.grad, atol=1e-6, rtol=0), name
        assert max(float(grad.abs().max()) for grad in seen.values()) > 1e-3

    monkeypatch.setattr(callbacks.Steps, "on_pre_optimizer_step", look)
    shape = ["training.batch_size=2", "training.gradient_accumulation_steps=4", "training.learning_rate=1e-9"]
    result = trained_with(tiny_model, tmp_path / "run", *eight, *shape)
    assert seen
    data = load_dataset(load_spec("A1", overrides=[f"model.name={tiny_model}", *eight]).data, Level.A1)
    with torch.inference_mode():
        expected = by_hand(tiny_model, list(data.eval)).item()
    assert result.best.eval_loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("loss_on", ["all", "response"])
def test_accumulating_four_times_four_is_sixteen_at_once(tiny_model: Path, tmp_path: Path, loss_on: str) -> None:
    settings = ["backend=peft", "data.examples=60", "data.words_per_example=3", "lora.rank=4", "lora.dropout=0.0"]
    settings += ["evaluation.max_examples=4", "training.precision=fp32", "training.logging_steps=1"]
    settings += ["training.max_steps=12", "training.eval_steps=4", "training.learning_rate=1e-3"]
    curves = []
    for rows, times in ((4, 4), (16, 1)):
        shape = [f"training.batch_size={rows}", f"training.gradient_accumulation_steps={times}"]
        overrides = [f"model.name={tiny_model}", *settings, *shape, f"training.loss_on={loss_on}"]
        work = work_folder(tmp_path / f"{rows}", load_spec("A2", overrides=overrides))
        run_stage(StageContext(work), "train")
        curves.append([value for e in trained(work).log if (value := e.loss or e.eval_loss) is not None])
    assert len(curves[0]) == 15
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)
    assert curves[0][-2] < curves[0][0] - 0.1, "something was learned"


def test_an_example_without_a_response_is_an_error_not_a_division_by_zero(tiny_model: Path) -> None:
    from cefr_batch.models.loading import load_tokenizer

    overrides = [f"model.name={tiny_model}", "training.loss_on=response", "training.max_length=16"]
    spec = load_spec("A1", overrides=overrides)
    with pytest.raises(JobFailed, match="2 of 2 examples have no response left"):
        training._tokenized(spec, load_tokenizer(tiny_model), prompt_format("alpaca", tiny_model), EXAMPLES[:2])
