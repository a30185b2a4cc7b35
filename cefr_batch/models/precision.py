"""Whether a model overflows in fp16, whose largest number is 65,504: by its weights, or by what it computes."""

from __future__ import annotations

from typing import Any

import torch

from cefr_batch.records.stages import Fp16Overflow

# Other texts may reach more than the examples that were looked at.
_HEADROOM = 2.0


class LargestOutput:
    """While entered, notes the largest number that any part of a model gives to the next."""

    def __init__(self, model: Any) -> None:
        self._model, self._handles = model, list[Any]()
        self.value = 0.0

    def __enter__(self) -> LargestOutput:
        self._handles = [module.register_forward_hook(self._note) for module in self._model.modules()]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, _module: Any, _inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, torch.Tensor) and first.is_floating_point() and first.numel():
            low, high = torch.aminmax(first)
            self.value = max(self.value, -float(low), float(high))


def fp16_overflow(largest_weight: float, largest_output: float) -> Fp16Overflow | None:
    """What fp16 cannot hold of a model, by its largest weight and what ``LargestOutput`` saw in fp32."""
    limit = torch.finfo(torch.float16).max
    if not largest_weight <= limit:
        return "weights"
    return "outputs" if not _HEADROOM * largest_output <= limit else None
