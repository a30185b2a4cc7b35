"""Floating-point operations: those that torch does, counted, and the least that the tokens that count need, by arithmetic.

docs/gpu-memory.md derives them. An operation is an addition or a multiplication, and only products of matrices count, as in
``torch.utils.flop_counter``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cefr_batch.models.architecture import Architecture


def counted(compute: Callable[[], Any]) -> int:
    """The operations that torch does meanwhile, backward passes included."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def forward(query: Any, key: Any, value: Any, _dropout: float = 0.0, causal: bool = False, **_: Any) -> int:
        return int(sdpa_flop_count(query, key, value) * _met(query[-2], causal))

    def backward(gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **_: Any) -> int:
        causal = rest[3]  # after the output, its log-sum, and dropout
        return int(sdpa_backward_flop_count(gradient, query, key, value) * _met(query[-2], causal))

    aten: Any = torch.ops.aten  # the CPU's attention, which torch 2.13 does not count by itself
    attention = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        compute()
    return int(counter.get_total_flops())


def _met(tokens: int, causal: bool) -> float:
    """The share of the pairs of tokens that attention computes: where no padding has to be masked, each token meets those
    before it and itself."""
    return (tokens + 1) / (2 * tokens) if causal else 1.0


@dataclass(frozen=True)
class Least:
    """The least that a model needs, frozen but for an adapter of this rank on all its linear modules."""

    model: Architecture
    rank: int = 0

    def layers_forward(self, tokens: int, before: int = 0) -> int:
        """So many tokens through all layers, after others whose keys and values are there: 2 a weight and token; each
        token's query meets the keys and values of those before it and its own."""
        meetings = sum(before + t + 1 for t in range(tokens))
        weights = self.model.linear_parameters + self._lora
        return 2 * weights * tokens + 4 * self.model.layers * self.model.query * meetings

    def head(self, predictions: int) -> int:
        """The logits of so many tokens."""
        return 2 * self.model.vocabulary * self.model.hidden * predictions

    def training(self, tokens: int, predictions: int) -> int:
        """A text of so many tokens, of which so many are predicted: nothing follows the last one, so it is no input.

        Backward each product has two again, of which frozen weights need one; the first layer's queries, keys and values
        need none, since nothing below them is trained.
        """
        inputs = tokens - 1
        first = [self.model.linears[name] for name in ("q_proj", "k_proj", "v_proj")]
        spared = sum(2 * i * o + 2 * self.rank * i for i, o in first) * inputs
        back = 2 * (self.model.linear_parameters + 2 * self._lora) * inputs - spared
        attention = 8 * self.model.layers * self.model.query * sum(range(1, inputs + 1))
        return self.layers_forward(inputs) + self.head(predictions) * 2 + back + attention

    def generation(self, prompts: Sequence[int], new: int) -> int:
        """So many new tokens after prompts of so many: all but the last new one are read, too."""
        once = sum(self.layers_forward(prompt) + self.layers_forward(new - 1, prompt) for prompt in prompts)
        return once + self.head(new * len(prompts))

    @property
    def _lora(self) -> int:
        return self.model.lora_parameters(self.rank, self.model.linears)
