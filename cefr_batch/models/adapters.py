"""One pretrained model in memory, and the adapters of several runs beside it, each chosen for one row of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from cefr_batch.errors import ModelError
from cefr_batch.models.loading import load_for_evaluation, load_tokenizer
from cefr_batch.models.lora import Lora

_Pair = tuple[
    torch.Tensor, torch.Tensor
]  # of a module: inputs × rank, and rank × outputs with the adapter's scale in it


class AdaptedModel:
    """A pretrained model, ``model`` with its ``tokenizer``; adapters change it within ``adapted`` alone.

    PEFT can mix adapters in a batch, too, a product for each adapter and module, in 1.5 to 2 times the time on the CPU
    (SmolLM2-135M with three adapters, peft 0.21); here all rows of a module are one product.
    """

    def __init__(self, folder: Path) -> None:
        """Load the pretrained model of a folder. Raises ``ModelError``."""
        disable_progress_bar()
        self.model: Any = load_for_evaluation(folder)
        self.tokenizer: Any = load_tokenizer(folder)
        self._adapters: dict[str, dict[str, _Pair]] = {}

    def add(self, name: str, folder: Path) -> None:
        """Load the adapter of a folder under a name. Raises ``ModelError`` for one that does not belong to this model."""
        lora, modules = Lora.read(folder), dict(self.model.named_modules())
        pairs: dict[str, _Pair] = {}
        for weight, pair in lora.pairs.items():
            place = weight.removesuffix(".weight")
            module = modules.get(place)
            if not (isinstance(module, torch.nn.Linear) and _fits(pair, module)):
                raise ModelError(
                    f"the adapter of {name} does not fit its pretrained model at {place}; train the run again"
                )
            a, b = (pair[part].to(self.model.device, torch.float32) for part in "AB")
            pairs[place] = (a.T.contiguous(), (lora.scale * b.T).contiguous())
        self._adapters[name] = pairs

    @contextmanager
    def adapted(self, names: Sequence[str | None]) -> Iterator[None]:
        """Within it each row of a batch goes through the adapter of this name; None: through none."""
        rows = [self._adapters[name] if name else {} for name in names]
        hooks = []
        for place in dict.fromkeys(place for row in rows for place in row):
            matrices = _stacked([row.get(place) for row in rows])
            hooks.append(self.model.get_submodule(place).register_forward_hook(partial(_added, *matrices)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _fits(pair: dict[str, torch.Tensor], module: torch.nn.Linear) -> bool:
    if pair.keys() != {"A", "B"}:
        return False
    (rank, inputs), (outputs, of_b) = pair["A"].shape, pair["B"].shape
    return rank == of_b and (outputs, inputs) == tuple(module.weight.shape)


def _stacked(pairs: Sequence[_Pair | None]) -> _Pair:
    """The matrices of all rows, rows × inputs × rank and rows × rank × outputs, filled up with zeros to the largest rank."""
    known = [pair for pair in pairs if pair]
    (inputs, _), (_, outputs) = known[0][0].shape, known[0][1].shape
    rank = max(a.shape[1] for a, _ in known)
    into, out = known[0][0].new_zeros(len(pairs), inputs, rank), known[0][1].new_zeros(len(pairs), rank, outputs)
    for row, pair in enumerate(pairs):
        if pair:
            into[row, :, : pair[0].shape[1]], out[row, : pair[1].shape[0]] = pair
    return into, out


def _added(
    into: torch.Tensor, out: torch.Tensor, _module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
) -> torch.Tensor:
    """A module's output with that of each row's adapter."""
    return output.baddbmm_(torch.bmm(inputs[0], into), out)
