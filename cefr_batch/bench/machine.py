"""``python -m cefr_batch.bench.machine gpu|cpu FOLDER SHAPE…``: what this machine can do, and models of these shapes.

In a process of its own, so that the one that waits for the jobs takes nothing of the GPU.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cefr_batch.config.schema import STARTER, Level
from cefr_batch.data.pairs import read_pairs
from cefr_batch.errors import CefrBatchError
from cefr_batch.models.libraries import training_libraries

_WORDS = 4096  # of the tokenizer: it cuts the starter corpus into about as many tokens as Llama's does
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
SHAPES = {
    "llama-1b": (128_256, 2048, 8192, 16, 32, 8),  # Llama-3.2-1B's
    "llama-135m": (49_152, 576, 1536, 30, 9, 3),  # SmolLM2-135M's
    "tiny": (_WORDS, 32, 64, 2, 4, 2),
}


@dataclass(frozen=True)
class BenchMachine:
    """``gpus``: how many it has; the rest is of the first one, or of the CPU where there is none. ``memory`` in bytes, 0
    for a CPU; ``flops``: operations a second, measured in products of large matrices of the type that training has."""

    gpus: int
    name: str
    memory: int
    bf16: bool
    flops: float
    versions: dict[str, str]


def measured_machine() -> BenchMachine:
    """Blocks for some seconds."""
    import torch

    from cefr_batch.job.stages.train import library_versions
    from cefr_batch.models.device import has_bf16, this_machine

    found, cuda = this_machine(), torch.cuda.is_available()
    return BenchMachine(
        gpus=torch.cuda.device_count() if cuda else 0,
        name=found.gpu or found.cpu,
        memory=torch.cuda.get_device_properties(0).total_memory if cuda else 0,
        bf16=has_bf16(),
        flops=multiplication_rate(8192 if cuda else 1024),
        versions={**library_versions(), **({"CUDA": str(torch.version.cuda)} if cuda else {})},
    )


def multiplication_rate(size: int) -> float:
    """Operations a second of the fastest of some products of two square matrices."""
    import torch

    from cefr_batch.models.device import device, has_bf16

    kind, seconds = torch.bfloat16 if has_bf16() else torch.float32, []
    a, b = (torch.randn(size, size, device=device(), dtype=kind) for _ in range(2))
    for _ in range(20):  # the first ones choose a kernel, and bring the GPU to its clock
        _wait_for_gpu()
        started = time.perf_counter()
        torch.mm(a, b)
        _wait_for_gpu()
        seconds.append(time.perf_counter() - started)
    return float(2 * size**3 / min(seconds))


def _wait_for_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def random_llama(folder: Path, sizes: Sequence[int]) -> None:
    """A Llama with random weights (seeded), and a tokenizer of the starter corpus. ``sizes``: vocabulary, hidden and
    intermediate width, layers, heads, key and value heads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from cefr_batch.models.device import device

    _save_tokenizer(folder)
    special = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    shape = dict(zip(_SIZES, sizes, strict=True))
    config = LlamaConfig(**shape, **special, tie_word_embeddings=True, max_position_embeddings=2048)
    torch.manual_seed(0)
    with device():  # on a GPU a billion random numbers take a moment
        model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer, special = Tokenizer(models.BPE()), {"eos_token": "<eos>", "pad_token": "<pad>"}
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_WORDS,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sentences = (pair.sentence for level in Level for pair in read_pairs(STARTER, level))
    tokenizer.train_from_iterator(sentences, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def _require_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        why = f'{sys.executable} -c "import torch; torch.cuda.init()" says why'
        raise CefrBatchError(f"torch {torch.__version__} finds no GPU here; {why}; --cpu runs what a CPU can show")


def main(argv: Sequence[str]) -> int:
    """Print the machine as one line of JSON, the last one. Exits with a sentence where there is no GPU and one is wanted."""
    wanted, folder, *shapes = argv
    try:
        with training_libraries():
            if wanted == "gpu":
                _require_gpu()
            machine = measured_machine()
            for shape in shapes:
                random_llama(Path(folder, shape), SHAPES[shape])
    except CefrBatchError as exc:
        sys.exit(str(exc))
    print(json.dumps(asdict(machine)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
