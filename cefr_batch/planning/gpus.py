"""The GPUs that a plan can be made for: what torch can use of their memory, and how fast they multiply."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from itertools import pairwise

from cefr_batch.errors import UsageError

_GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """``memory``: the total that torch reports, in bytes; ``tflops``: of what training multiplies, without sparsity: 16-bit
    matrices with fp32 sums, or fp32 on a GPU without bf16."""

    key: str
    name: str
    memory: int
    tflops: float
    bf16: bool = True


# Memory: "total capacity" in torch's out-of-memory messages (23.64 GiB of a GeForce RTX 4090: ali-vilab/VGen#104; 21.99 of
# an A10: zai-org/CogVLM#236; 39.50 of an A100: TianheWu/CoSeR#10; 79.25: HiDream-ai/VAREdit#6). GeForce GPUs and the A5000
# of 24 GB have 24,564 to 24,576 MiB in nvidia-smi, A10G and L4, which correct errors, 23,028 and 23,034. The
# T4: 14.56 (Zheng-Chong/CatVTON#133), V100: 31.75 (hiyouga/LlamaFactory#182), L40S: 44.42 (stepfun-ai/Step-Video-T2V#8);
# H100: measured, docs/gpu-memory.md; those of the V100 16GB and the H200 are assumed.
# Speed: NVIDIA's whitepapers of Volta and Turing (fp32: neither has bf16), GA102 (RTX 3090), Ada (RTX 4090, L4), A100 and
# H100 (SXM; the H200 has the same chip); half of the datasheets of A5000 and L40S, which count sparsity;
# https://www.baseten.co/blog/nvidia-a10-vs-a10g-for-ml-model-inference/ for the A10G.
_KNOWN = (
    Gpu("t4", "T4", round(14.56 * _GIB), 8.1, bf16=False),
    Gpu("v100", "V100 16GB", round(15.77 * _GIB), 15.7, bf16=False),
    Gpu("v100-32gb", "V100 32GB", round(31.75 * _GIB), 15.7, bf16=False),
    Gpu("rtx3090", "GeForce RTX 3090", round(23.64 * _GIB), 71.0),
    Gpu("rtx4090", "GeForce RTX 4090", round(23.64 * _GIB), 165.2),
    Gpu("a5000", "RTX A5000", round(23.64 * _GIB), 111.1),
    Gpu("a10g", "A10G", round(21.99 * _GIB), 70.0),
    Gpu("l4", "L4", round(21.99 * _GIB), 121.0),
    Gpu("l40s", "L40S", round(44.42 * _GIB), 362.0),
    Gpu("a100", "A100 40GB", round(39.50 * _GIB), 312.0),
    Gpu("a100-80gb", "A100 80GB", round(79.25 * _GIB), 312.0),
    Gpu("h100", "H100 80GB", round(79.18 * _GIB), 989.0),
    Gpu("h200", "H200", round(139.8 * _GIB), 989.0),
)
GPUS = {gpu.key: gpu for gpu in _KNOWN}


def find_gpu(name: str) -> Gpu:
    """By its key, or as schedulers and shops write it (``RTX 4090``, ``nvidia-l4``, ``3090``); ``h100:20`` is one of which a
    job gets 20 GB (10⁹ bytes), such as a MIG slice. Raises ``UsageError``.
    """
    kind, colon, given = name.partition(":")
    gpu = _find(kind)
    if not colon:
        return gpu
    size = re.fullmatch(r"([0-9]{1,4}(?:\.[0-9]+)?) *(?:gb)?", given.strip().lower())
    if not size or float(size[1]) <= 0:
        raise UsageError(f"{name!r}: the memory after the colon must be in GB, as in {gpu.key}:20")
    return replace(gpu, name=f"{gpu.name} with {size[1]} GB", memory=round(float(size[1]) * 1e9))


def recognized_gpu(product: str) -> Gpu | None:
    """The GPU that a product's name means, as drivers and clusters write it (``NVIDIA-A100-SXM4-80GB``); None if it is not
    known, and for a slice of one (MIG)."""
    words = [word for word in re.split(r"[^a-z0-9]+", product.lower()) if word]
    size = next((word for word in words if re.fullmatch(r"[0-9]+gb", word)), "")
    if "mig" in words:
        return None
    for word in [*map("".join, pairwise(words)), *words]:
        for key in (f"{word}-{size}", word, f"rtx{word}"):
            if key in GPUS:
                return GPUS[key]
    return None


def _find(name: str) -> Gpu:
    key = re.sub(r"[^a-z0-9]", "", re.sub(r"nvidia|geforce|tesla", "", name.lower()))
    found = {gpu.key.replace("-", ""): gpu for gpu in _KNOWN}
    for spelling in (key, f"rtx{key}", key.removeprefix("rtx")):
        if spelling in found:
            return found[spelling]
    close = difflib.get_close_matches(key, found, n=1)
    hint = f" (did you mean {found[close[0]].key}?)" if close else ""
    raise UsageError(
        f"{name!r} is not a known GPU{hint}; known: {', '.join(GPUS)}; give another memory after a colon: h100:20"
    )
