"""What the machine of a job can do: its device, bf16, and how it is named in a run's figures.

Light to import: torch is loaded by the function that needs it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any

from cefr_batch.errors import MachineError, Problem
from cefr_batch.records.training import Machine

if TYPE_CHECKING:
    import torch

PROMISED_GPUS = (
    "CEFR_BATCH_PROMISED_GPUS"  # the environment variable that tells a job's stages how many the site promised
)


def gpus_given(number: int) -> str:
    """How many GPUs the site promised the job, for messages."""
    return f"this job should have {number} GPU{'' if number == 1 else 's'}"


def installed_torch() -> tuple[str, str | None]:
    """The version of this Python's torch (empty: not installed), and the CUDA that it was built for; torch is not loaded:
    this is from its one file without imports."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        return "", None
    values = run_path(str(Path(found.origin).with_name("version.py")))
    return str(values["__version__"]), values["cuda"]


def device() -> torch.device:
    """The GPU if there is one. Raises ``MachineError`` where one was promised and is not there for torch."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    if promised := int(os.environ.get(PROMISED_GPUS, 0)):
        cause = f"{gpus_given(promised)}, but torch {torch.__version__} cannot use any"
        remedy = (
            f'run {sys.executable} -c "import torch; torch.cuda.init()" on this node to see why, or use another node'
        )
        raise MachineError([Problem("GPU", f"{cause}; {remedy}")])
    return torch.device("cpu")


def has_bf16() -> bool:
    """Whether bf16 arithmetic is native here: on CUDA what torch says, on the CPU AVX-512 BF16 or AMX."""
    import torch

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


def this_machine() -> Machine:
    """Where a run is computed, for its figures."""
    import torch

    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return Machine(
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
