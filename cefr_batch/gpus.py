"""The cards that a plan can be made for: what torch can use of their memory, and how fast they multiply."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from cefr_batch.errors import UsageError

_GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """``memory``: the total that torch reports, in bytes; ``tflops``: 16-bit matrices, fp32 sums, without sparsity."""

    key: str
    name: str
    memory: int
    tflops: float


# Memory: "total capacity" in torch's out-of-memory messages (23.64 GiB of a GeForce RTX 4090: ali-vilab/VGen#104; 21.99 of
# an A10: zai-org/CogVLM#236; 39.50 of an A100: TianheWu/CoSeR#10; 79.25: HiDream-ai/VAREdit#6). GeForce cards and the A5000
# of 24 GB have 24,564 to 24,576 MiB in nvidia-smi, A10G and L4, which correct errors, 23,028 and 23,034. The
# H100's is assumed.
# Speed: NVIDIA's whitepapers of GA102 (RTX 3090), Ada (RTX 4090, L4), A100 and H100 (SXM); half of the A5000's datasheet,
# which counts sparsity; https://www.baseten.co/blog/nvidia-a10-vs-a10g-for-ml-model-inference/ for the A10G.
_CARDS = (
    Gpu("rtx3090", "GeForce RTX 3090", round(23.64 * _GIB), 71.0),
    Gpu("rtx4090", "GeForce RTX 4090", round(23.64 * _GIB), 165.2),
    Gpu("a5000", "RTX A5000", round(23.64 * _GIB), 111.1),
    Gpu("a10g", "A10G", round(21.99 * _GIB), 70.0),
    Gpu("l4", "L4", round(21.99 * _GIB), 121.0),
    Gpu("a100", "A100 40GB", round(39.50 * _GIB), 312.0),
    Gpu("a100-80gb", "A100 80GB", round(79.25 * _GIB), 312.0),
    Gpu("h100", "H100 80GB", round(79.10 * _GIB), 989.0),
)
GPUS = {card.key: card for card in _CARDS}


def find_gpu(name: str) -> Gpu:
    """By its key, or as schedulers and shops write it (``RTX 4090``, ``nvidia-l4``, ``3090``). Raises ``UsageError``."""
    key = re.sub(r"[^a-z0-9]", "", re.sub(r"nvidia|geforce|tesla", "", name.lower()))
    found = {card.key.replace("-", ""): card for card in _CARDS}
    for spelling in (key, f"rtx{key}", key.removeprefix("rtx")):
        if spelling in found:
            return found[spelling]
    close = difflib.get_close_matches(key, found, n=1)
    hint = f" (did you mean {found[close[0]].key}?)" if close else ""
    raise UsageError(f"{name!r} is not a known GPU{hint}; known: {', '.join(GPUS)}")
