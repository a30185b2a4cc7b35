"""Load models and tokenizers inside a job, and know what the machine can do."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cefr_batch.errors import MachineError, ModelError, Problem
from cefr_batch.run.machine import PROMISED_GPUS

log = logging.getLogger(__name__)


def device() -> torch.device:
    """The GPU if there is one. Raises ``MachineError`` where one was promised and is not there for torch."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if promised := int(os.environ.get(PROMISED_GPUS, 0)):
        cause = f"{promised} promised, and torch {torch.__version__} cannot use any"
        remedy = (
            f"see on this node what {sys.executable} says to `import torch; torch.cuda.init()`, or take another node"
        )
        raise MachineError([Problem("GPU", f"{cause}; {remedy}")])
    return torch.device("cpu")


def has_bf16() -> bool:
    """Whether bf16 arithmetic is native here: on CUDA what torch says, on the CPU AVX-512 BF16 or AMX."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def use_bf16(precision: str) -> bool:
    """Whether training computes in bf16, for ``training.precision``."""
    return precision == "bf16" or (precision == "auto" and has_bf16())


def reuse_freed_memory() -> None:
    """Have this process keep the memory of freed tensors for the next ones. By default glibc maps each large one anew, which
    the kernel then zeroes page by page: a seventh of a training step's time on the CPU. See mallopt(3)."""
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    m_trim_threshold, m_mmap_max = -1, -4
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, -1)


def load_tokenizer(path: Path) -> Any:
    """The tokenizer, with a padding token: its own, or else end-of-text (padding is masked everywhere)."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer in {path} has no end-of-text token, so the model could not learn to stop")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def stored_dtype(path: Path) -> torch.dtype:
    """The 16-bit type of a model's weights; weights stored wider are taken as bf16, since that is what is published."""
    config = AutoConfig.from_pretrained(path)
    if getattr(config, "quantization_config", None):
        raise ModelError(
            f"{path} holds quantized weights; name the model's 16-bit original (4-bit is made while training)"
        )
    return torch.float16 if config.dtype == torch.float16 else torch.bfloat16


def load_for_evaluation(path: Path) -> Any:
    """The model's 16-bit weights, computing in fp32: losses then do not depend on batch shapes, and a merge can be checked
    to rounding. Costs 4 bytes a parameter (5 GB for Llama-3.2-1B)."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=stored_dtype(path))
    model = model.to(device=device(), dtype=torch.float32).eval()
    reuse_freed_memory()
    return model


@dataclass(frozen=True)
class Machine:
    """Where a run was computed; goes into metrics.json."""

    cpu: str
    threads: int
    gpu: str | None
    gpu_memory_gb: float | None

    @classmethod
    def here(cls) -> Machine:
        gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
        return cls(
            cpu=_cpu_name(),
            threads=torch.get_num_threads(),
            gpu=gpu.name if gpu else None,
            gpu_memory_gb=round(gpu.total_memory / 1e9, 1) if gpu else None,
        )


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return f"{platform.processor() or platform.machine()} ({os.cpu_count()} cores)"
