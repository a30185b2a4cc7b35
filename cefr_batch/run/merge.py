"""Adapter + base model → one 16-bit model that plain transformers loads."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from cefr_batch.errors import JobFailed
from cefr_batch.run.model import reuse_freed_memory

# bf16 keeps 8 significant bits: rounding merged weights moves the mean loss by a few thousandths at most (seen: at most
# 0.005 on SmolLM2 and on models of random weights), a wrong merge by far more.
TOLERANCE = 0.02

_ONE_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = {torch.float16: "F16", torch.bfloat16: "BF16"}


def merge(base: Path, adapter: Path, tokenizer: Any, dtype: torch.dtype, target: Path, tmp: Path) -> None:
    """Write ``base`` with a LoRA adapter folded in as a model folder: ``dtype`` safetensors, config and tokenizer.

    One tensor is in memory at a time, whatever the model's size, and the files are cut as the base's are. A weight is
    ``W + alpha / r · B A`` (Hu et al. 2021, section 4.1): ``W`` as training had it, in ``dtype``; summed in float32,
    rounded once. ``target`` appears whole. Raises ``JobFailed`` for an adapter that is more than LoRA on weights of the
    base, so that nothing of it is lost unsaid.
    """
    reuse_freed_memory()
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    lora = _Lora.read(adapter)
    for name in _weight_files(base):
        _Shard(base / name, lora, dtype).write(tmp / name)
    if left := lora.unused():
        raise _not_mergeable(f"the model has no weights for {left[0]}", len(left))
    _write_index(base, tmp)
    _write_configs(base, dtype, tmp)
    tokenizer.save_pretrained(tmp)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    tmp.rename(target)


def check_same_loss(adapter_loss: float, merged_loss: float) -> None:
    """Raise ``JobFailed`` unless the merged model's loss is the adapter's within rounding."""
    if not abs(merged_loss - adapter_loss) <= TOLERANCE:
        raise JobFailed(
            f"the merged model's loss is {merged_loss:.4f}, with the adapter it was {adapter_loss:.4f}: the merge is wrong, "
            "so it is not published; the adapter is stored and right"
        )


def _not_mergeable(why: str, more: int = 1) -> JobFailed:
    others = f" (and {more - 1} more)" if more > 1 else ""
    return JobFailed(f"the adapter cannot be merged: {why}{others}; it is stored, and PEFT loads it on the base model")


@dataclass
class _Lora:
    """An adapter's pairs of matrices (A: rank × inputs, B: outputs × rank) by the weight that they change."""

    scale: float
    pairs: dict[str, dict[str, torch.Tensor]]
    used: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, folder: Path) -> _Lora:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        for key in ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern", "fan_in_fan_out"):
            if config.get(key):
                raise _not_mergeable(f"its {key} is {config[key]}, which no run of cefr-batch sets")
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
            raise _not_mergeable(f"{strange[0]} is no LoRA matrix", len(strange))
        return cls(config["lora_alpha"] / config["r"], pairs)

    def applied(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        pair = self.pairs.get(name)
        if pair is None:
            return weight
        self.used.add(name)
        return weight.float().addmm_(pair["B"].float(), pair["A"].float(), alpha=self.scale).to(weight.dtype)

    def unused(self) -> list[str]:
        return sorted(self.pairs.keys() - self.used)


@dataclass
class _Shard:
    """A weight file to be written tensor by tensor. The library for the format writes only what is in memory whole."""

    source: Path
    lora: _Lora
    dtype: torch.dtype

    def write(self, target: Path) -> None:
        header = json.dumps(self._header(), separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        with target.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for tensor in self._tensors():
                file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy())

    def _header(self) -> dict[str, Any]:
        """Each tensor's type, shape and place: https://github.com/huggingface/safetensors#format"""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        with safe_open(self.source, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                shape = file.get_slice(name).get_shape()
                start, end = end, end + math.prod(shape) * self.dtype.itemsize
                header[name] = {"dtype": _DTYPES[self.dtype], "shape": shape, "data_offsets": [start, end]}
        return header

    def _tensors(self) -> Iterator[torch.Tensor]:
        with safe_open(self.source, framework="pt") as file:
            names = list(file.keys())
        for name in names:
            with safe_open(self.source, framework="pt") as file:  # each time anew: what was read leaves memory
                weight = file.get_tensor(name).to(self.dtype)
            yield self.lora.applied(name, weight)


def _weight_files(base: Path) -> list[str]:
    if (base / _ONE_FILE).is_file():
        return [_ONE_FILE]
    return sorted(set(json.loads((base / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))


def _write_index(base: Path, target: Path) -> None:
    if (target / _ONE_FILE).is_file():
        return
    index = json.loads((base / _INDEX).read_text(encoding="utf-8"))
    index["metadata"] = {"total_size": sum(file.stat().st_size for file in target.glob("*.safetensors"))}
    (target / _INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_configs(base: Path, dtype: torch.dtype, target: Path) -> None:
    """config.json and generation_config.json, as ``save_pretrained`` of the model writes them."""
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(base)
    config.dtype = dtype
    config.save_pretrained(target)
    stored = (base / "generation_config.json").is_file()
    generation = GenerationConfig.from_pretrained(base) if stored else GenerationConfig.from_model_config(config)
    generation.save_pretrained(target)
