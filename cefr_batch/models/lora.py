"""A LoRA adapter's matrices, read from the files that PEFT wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from typing_extensions import Self

from cefr_batch.errors import ModelError
from cefr_batch.files import read_json


@dataclass
class Lora:
    """An adapter's pairs of matrices (A: rank × inputs, B: outputs × rank) by the weight that they change: ``W`` becomes
    ``W + scale · B A`` (Hu et al. 2021, section 4.1)."""

    scale: float
    pairs: dict[str, dict[str, torch.Tensor]]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The adapter in a folder. Raises ``ModelError`` for one that is more than LoRA on a model's weights."""
        config = read_json(folder / "adapter_config.json")
        for key in ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern", "fan_in_fan_out"):
            if config.get(key):
                raise ModelError(f"its {key} is {config[key]}, so it was made by another program")
        pairs: dict[str, dict[str, torch.Tensor]] = {}
        strange = []
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (it is no dictionary)
                module, dot, part = key.removeprefix("base_model.model.").rpartition(".lora_")
                if dot and part in ("A.weight", "B.weight"):
                    pairs.setdefault(f"{module}.weight", {})[part[0]] = file.get_tensor(key)
                else:
                    strange.append(key)
        if strange:
            more = f" (and {len(strange) - 1} more)" if len(strange) > 1 else ""
            raise ModelError(f"its tensor {strange[0]} is not a LoRA matrix{more}")
        return cls(config["lora_alpha"] / config["r"], pairs)
