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
from typing_extensions import Self, override

from cefr_batch.data import PromptFormat
from cefr_batch.errors import JobFailed, ModelError
from cefr_batch.files import read_json
from cefr_batch.models.device import reuse_freed_memory
from cefr_batch.models.loading import stored_dtype
from cefr_batch.models.lora import Lora
from cefr_batch.models.prompt_files import save_prompt_files
from cefr_batch.models.weights import INDEX, SINGLE, weight_files

# Our sum and PEFT's add up the same products in another order: they differ by some units in the last place of fp32, of the
# weight (relative) and of the adapter's largest change to it (absolute).
_RELATIVE, _ABSOLUTE = 1e-6, 1e-3
# Losses of the same weights are the same but for the order of sums in fp32 (tests: 1e-5).
EXACT_TOLERANCE = 1e-4  # nats a token

_ADAPTER_IS_STORED = (
    "The adapter is stored: `cefr-batch pull RUN --only adapter` fetches it, and PEFT loads it on the base model"
)
_DTYPES = {torch.float16: "F16", torch.bfloat16: "BF16"}


def merge(
    base: Path,
    adapter: Path,
    tokenizer: Any,
    prompts: PromptFormat,
    dtype: torch.dtype,
    target: Path,
    tmp: Path,
) -> None:
    """Write ``base`` with a LoRA adapter folded in as a model folder: ``dtype`` safetensors, config, and the files by which
    other programs ask it as it was trained.

    One tensor is in memory at a time, whatever the model's size, and the files are cut as the base's are. A weight is
    ``W + alpha / r · B A`` (Hu et al. 2021, section 4.1): ``W`` as training had it, in 16 bits; summed in float32, rounded
    once. ``target`` appears whole. Raises ``JobFailed`` for an adapter that is more than LoRA on weights of the base, so
    that no part of it is dropped silently.
    """
    reuse_freed_memory()
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    lora = _Lora.read(adapter)
    for name in weight_files(base):
        _Shard(base / name, stored_dtype(base), lora, dtype).write(tmp / name)
    lora.require_all_used()
    _write_index(base, tmp)
    _write_config(base, dtype, tmp)
    save_prompt_files(base, tokenizer, prompts, tmp)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    tmp.rename(target)


@dataclass(frozen=True)
class MergedWeights:
    """The weights of a model with a LoRA adapter folded in, before they are rounded to 16 bits."""

    base: Path
    adapter: Path

    def check_against(self, merged: Any) -> float:
        """Compare them with those of a model of the base, in fp32, into which PEFT merged the adapter; return the largest
        weight. Raises ``JobFailed`` if they differ by more than the order of sums."""
        parameters, largest = _parameters(merged), 0.0
        for name, weight, exact in self._all():
            largest = max(largest, float(exact.abs().max()))
            if exact is not weight and not _same_sum(parameters[name].detach().cpu(), exact, weight):
                raise wrong_merge(f"its {name} is not the base model's weight plus the adapter's change")
        return largest

    def put_into(self, model: Any, dtype: torch.dtype) -> None:
        """Give a model of the base, in fp32, these weights as rounded to ``dtype``."""
        parameters = _parameters(model)
        for name, _, exact in self._all():
            if name in parameters:  # else it is stored beside the weight that it is tied to
                with torch.no_grad():
                    parameters[name].copy_(exact.to(dtype))

    def check_written(self, model: Any, dtype: torch.dtype) -> None:
        """Raise ``JobFailed`` unless a model, loaded in fp32, has these weights as rounded to ``dtype``, bit for bit."""
        parameters = _parameters(model)
        for name, _, exact in self._all():
            if name in parameters and not torch.equal(parameters[name].detach().cpu(), exact.to(dtype).float()):
                raise wrong_merge(f"its {name} was not written as it was computed")

    def _all(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Each weight's name, the base's (16 bits), and the sum (fp32); where the adapter changes nothing, the base's."""
        lora, stored = _Lora.read(self.adapter), stored_dtype(self.base)
        for file in weight_files(self.base):
            for name, weight in _tensors_of(self.base / file, stored):
                yield name, weight, lora.applied(name, weight)
        lora.require_all_used()


def check_loss(wanted: float, found: float, of: str) -> None:
    """Raise ``JobFailed`` unless the two losses, in nats a token, are the same. ``of``: what has the second one."""
    if not abs(found - wanted) <= EXACT_TOLERANCE:
        raise wrong_merge(f"{of} has a loss of {found:.4f} instead of {wanted:.4f}")


def _parameters(model: Any) -> dict[str, torch.Tensor]:
    """By the names that they have in the base's files, whether or not PEFT wraps them."""
    return {name.replace(".base_layer.", "."): parameter for name, parameter in model.named_parameters()}


def _same_sum(theirs: torch.Tensor, ours: torch.Tensor, weight: torch.Tensor) -> bool:
    change = float((ours - weight.float()).abs().max())
    return bool(torch.allclose(ours, theirs, rtol=_RELATIVE, atol=_ABSOLUTE * change))


def wrong_merge(what: str) -> JobFailed:
    """The error of a merged model that is not the sum of base and adapter. ``what`` is wrong with it."""
    return JobFailed(f"the merged model is wrong: {what}; it is not published. {_ADAPTER_IS_STORED}")


def _not_mergeable(why: str, more: int = 1) -> JobFailed:
    others = f" (and {more - 1} more)" if more > 1 else ""
    return JobFailed(f"the adapter cannot be merged: {why}{others}. {_ADAPTER_IS_STORED}")


@dataclass
class _Lora(Lora):
    """An adapter to be folded in, and which of its pairs have been."""

    used: set[str] = field(default_factory=set)

    @classmethod
    @override
    def read(cls, folder: Path) -> Self:
        try:
            return super().read(folder)
        except ModelError as exc:
            raise _not_mergeable(str(exc)) from exc

    def applied(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The sum in fp32; the weight itself where the adapter changes nothing."""
        pair = self.pairs.get(name)
        if pair is None:
            return weight
        self.used.add(name)
        return weight.float().addmm_(pair["B"].float(), pair["A"].float(), alpha=self.scale)

    def require_all_used(self) -> None:
        if left := sorted(self.pairs.keys() - self.used):
            raise _not_mergeable(f"the model has no weights for {left[0]}", len(left))


@dataclass
class _Shard:
    """A weight file to be written tensor by tensor. The library for the format writes only what is in memory whole."""

    source: Path
    stored: torch.dtype  # of the base's weights
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
        for name, weight in _tensors_of(self.source, self.stored):
            yield self.lora.applied(name, weight).to(self.dtype)


def _tensors_of(source: Path, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a weight file by name, in ``dtype``, one in memory at a time."""
    with safe_open(source, framework="pt") as file:
        names = list(file.keys())
    for name in names:
        with safe_open(source, framework="pt") as file:  # each time anew: what was read leaves memory
            weight = file.get_tensor(name).to(dtype)
        yield name, weight


def _write_index(base: Path, target: Path) -> None:
    if (target / SINGLE).is_file():
        return
    index = read_json(base / INDEX)
    index["metadata"] = {"total_size": sum(file.stat().st_size for file in target.glob("*.safetensors"))}
    (target / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_config(base: Path, dtype: torch.dtype, target: Path) -> None:
    """config.json, as ``save_pretrained`` of the model writes it."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    config.dtype = dtype
    config.save_pretrained(target)
