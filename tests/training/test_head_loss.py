"""The loss that computes each logit once is the cross-entropy that PyTorch computes of all logits, and TRL's in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.job_runs import work_folder

from cefr_batch.config.load import load_spec
from cefr_batch.data import Example
from cefr_batch.training.task import TrainingTask


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("tokens", [0, 1, 256, 600])
def test_value_and_gradient_are_those_of_all_logits_at_once(tokens: int, cap: float | None) -> None:
    import torch
    from torch.nn.functional import cross_entropy

    from cefr_batch.training.head_loss import HeadLoss

    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(50, 8, generator=generator), torch.randn(50, generator=generator)
    wanted = torch.randint(50, (tokens,), generator=generator)
    values = torch.randn(tokens, 8, generator=generator)
    number = torch.tensor(7)  # the step's labels, of which these are some

    once = values.clone().requires_grad_()
    loss: Any = HeadLoss.apply(once, weight, bias, wanted, number, cap)
    (2 * loss).backward()
    whole = values.clone().requires_grad_()
    logits = whole @ weight.t() + bias
    expected = cross_entropy(cap * torch.tanh(logits / cap) if cap else logits, wanted, reduction="sum") / number
    (2 * expected).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(once.grad, whole.grad)


@pytest.mark.slow
def test_training_has_the_losses_of_trl(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With batches of several lengths, two of them in a step, and the prompt left out of the loss."""
    from cefr_batch.training import head_loss
    from cefr_batch.training.trainer import train

    examples = [Example("Write", "", "1. A cat. " * n) for n in (1, 4, 2, 7, 3, 5, 2, 6)]
    options = ["backend=peft", "lora.rank=4", "training.batch_size=2", "training.gradient_accumulation_steps=2"]
    options += ["training.max_steps=4", "training.eval_steps=2", "training.logging_steps=1", "training.precision=fp32"]
    options += ["training.max_length=1024", "training.loss_on=response", f"model.name={tiny_model}"]
    spec = load_spec("B1", overrides=options)

    def losses(name: str) -> list[float]:
        task = TrainingTask(spec, tiny_model, examples, examples[:3], work_folder(tmp_path / name, spec))
        figures = [figure for entry in train(task, None).log for figure in (entry.loss, entry.eval_loss)]
        return [figure for figure in figures if figure is not None]

    lean = losses("lean")
    assert len(lean) == 4 + 2
    monkeypatch.setattr(head_loss, "FAMILIES", {})
    assert losses("trl") == pytest.approx(lean, rel=1e-5)
