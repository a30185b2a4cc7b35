"""Must show: fp16 is refused where a model's weights or what it computes overflow in it, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cefr_batch.models.precision import LargestOutput, fp16_overflow


@pytest.mark.parametrize(
    ("weight", "output", "overflow"),
    [
        (65504.0, 30_000.0, None),
        (65505.0, 1.0, "weights"),
        (float("nan"), 1.0, "weights"),
        (1.0, 33_000.0, "outputs"),
        (1.0, float("inf"), "outputs"),
    ],
)
def test_what_fp16_cannot_hold(weight: float, output: float, overflow: str | None) -> None:
    assert fp16_overflow(weight, output) == overflow


def test_the_largest_output_is_seen_wherever_it_is_computed_and_only_while_looked_for(tiny_model: Path) -> None:
    """A model whose first layer gives large numbers: in fp16 they are none."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    tokens = torch.arange(2, 20).reshape(1, 18)
    with torch.inference_mode(), LargestOutput(model) as usual:
        model(tokens)
    assert 1 < usual.value < 1000
    assert fp16_overflow(1.0, usual.value) is None
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1e5)
    with torch.inference_mode(), LargestOutput(model) as large:
        model(tokens)
    seen = large.value
    assert fp16_overflow(1.0, seen) == "outputs"
    with torch.inference_mode():
        assert not torch.isfinite(model.half()(tokens).logits).all()
    assert large.value == seen, "it looks no more"
