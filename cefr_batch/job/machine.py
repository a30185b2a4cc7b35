"""Can this machine do the run? Asked before anything is computed, so that a wrong node costs seconds, not hours.

Light: the GPU is asked by ``nvidia-smi``, which every container runtime brings in beside the driver; torch is not imported.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cefr_batch.config.schema import RunSpec
from cefr_batch.errors import MachineError, ModelError, Problem
from cefr_batch.models.architecture import Architecture
from cefr_batch.models.device import gpus_given, installed_torch
from cefr_batch.planning.capacity import gigabytes
from cefr_batch.planning.disk import disk_needed
from cefr_batch.planning.memory import BatchShape, TargetDevice, evaluation_memory, training_memory
from cefr_batch.records import layout
from cefr_batch.schedulers.base import missing_packages, missing_trackers

# The oldest driver for each major version of CUDA: "Minor Version Compatibility" in NVIDIA's CUDA Compatibility guide,
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
BF16_CAPABILITY = 8.0  # Ampere: torch.cuda.is_bf16_supported

_SMI_SECONDS = 60


@dataclass(frozen=True)
class DetectedGpu:
    """A GPU as ``nvidia-smi --query-gpu`` shows it. Memory in bytes; None where it says N/A, as for memory of the host."""

    index: str
    name: str
    driver: str
    free: int | None
    capability: float | None

    FIELDS = "index,name,driver_version,memory.free,compute_cap"

    @classmethod
    def of(cls, line: str) -> DetectedGpu:
        """From a line of ``nvidia-smi``'s CSV with ``FIELDS``. Raises ``ValueError`` for another line."""
        index, name, driver, free, capability = (part.strip() for part in line.split(","))
        mib = _number(free)
        return cls(index, name, driver, None if mib is None else round(mib * 2**20), _number(capability))

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name})"


def check_machine(spec: RunSpec, model: Architecture | None, work: Path, gpus: int) -> None:
    """``model``: its sizes, if they are known. ``work``: the run's folder. ``gpus``: how many the site promised, 0 for none.

    Raises ``MachineError`` with everything that is wrong, ``ModelError`` where the packages are absent that training needs:
    other machines of the site have the same image or environment.
    """
    _require_packages(spec.backend)
    problems = [*_disk(spec, model, work), *(_gpus(spec, model, gpus) if gpus else ())]
    problems += missing_trackers(spec.training.report_to)
    if problems:
        raise MachineError(problems)


def _require_packages(backend: str) -> None:
    missing = missing_packages(backend)
    if missing:
        other = "" if backend == "peft" else ", or set backend=peft"
        raise ModelError(
            f"{sys.executable} has no {', '.join(missing)}, which training with {backend} needs; use an image or an "
            f"environment that has it (docs/unsloth.md){other}"
        )


def _disk(spec: RunSpec, model: Architecture | None, work: Path) -> Iterator[Problem]:
    free = shutil.disk_usage(work).free
    missing = disk_needed(spec, model) - _written(work) if model else 0
    if free < missing:
        yield Problem(
            f"work folder {work}",
            f"{gigabytes(free)} are free, and the run writes about {gigabytes(missing)} more; free some space, or name a "
            "folder on a larger disk with --work or CEFR_BATCH_WORK",
        )


def _written(work: Path) -> int:
    """Bytes of it that are there already. A file of several names counts once: the trainer's checkpoints are links."""
    folders = (layout.CHECKPOINTS, layout.ADAPTER, layout.MERGED)
    files = (file.lstat() for folder in folders for file in (work / folder).rglob("*") if file.is_file())
    return sum({(one.st_dev, one.st_ino): one.st_size for one in files}.values())


def _gpus(spec: RunSpec, model: Architecture | None, promised: int) -> Iterator[Problem]:
    torch, cuda = installed_torch()
    if cuda is None:
        what = f"the installed torch {torch} has no GPU support" if torch else "torch is not installed"
        yield Problem(
            "torch", f"{what}; use the image built with --target cuda, or the environment of `make setup-unsloth`"
        )
    given = gpus_given(promised)
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        yield Problem(
            "GPU", f"{given}, but CUDA_VISIBLE_DEVICES is set to an empty value, which hides them all; unset it"
        )
        return
    try:
        found = _query()
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        yield Problem("GPU", f"{given}, but nvidia-smi shows none ({_reason(exc)}); {_BRING_IN}")
        return
    if len(found) < promised:
        yield Problem("GPU", f"{given}, but nvidia-smi shows {len(found)}; {_BRING_IN}")
    for gpu in found[:promised]:
        yield from _gpu(spec, model, gpu, cuda)


_BRING_IN = (
    "request them in the site file (gres, gpus), and let the container runtime bring in the driver (docker --gpus all, "
    "apptainer --nv)"
)


def _gpu(spec: RunSpec, model: Architecture | None, gpu: DetectedGpu, cuda: str | None) -> Iterator[Problem]:
    oldest = OLDEST_DRIVER.get(int(cuda.split(".")[0])) if cuda else None
    if oldest and int(gpu.driver.split(".")[0]) < oldest:
        yield Problem(
            str(gpu),
            f"driver {gpu.driver} is too old: the installed torch is built for CUDA {cuda}, which needs {oldest} or newer; "
            "ask your cluster's administrators for a driver update, or use another node",
        )
    bf16 = gpu.capability is None or gpu.capability >= BF16_CAPABILITY
    if spec.training.precision == "bf16" and not bf16:
        yield Problem(
            str(gpu),
            f"has no bf16 (compute capability {gpu.capability}; bf16 needs {BF16_CAPABILITY}); set training.precision=auto",
        )
    batch = BatchShape(1, spec.training.max_length)
    device = TargetDevice(cuda=True, bf16=bf16 and spec.training.precision != "fp32")
    if model is None or gpu.free is None:
        return
    training = training_memory(model, spec, batch, device).total
    evaluation = evaluation_memory(model, spec, batch, device)
    if gpu.free < max(training, evaluation):
        needs = f"{'training' if training >= evaluation else 'evaluation'} needs about"
        yield Problem(
            str(gpu),
            f"{gigabytes(gpu.free)} are free, and {needs} {gigabytes(max(training, evaluation))} for one example at a "
            "time; see with nvidia-smi what uses the rest, or use another node",
        )


def _query() -> list[DetectedGpu]:
    """The GPUs of this job: those that ``CUDA_VISIBLE_DEVICES`` names, where it is set."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    selection = [f"--id={chosen}"] if chosen and "MIG" not in chosen else []
    command = ["nvidia-smi", f"--query-gpu={DetectedGpu.FIELDS}", "--format=csv,noheader,nounits", *selection]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_SECONDS, check=False)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise ValueError(lines[0] if lines else f"exit code {done.returncode}")
    return [DetectedGpu.of(line) for line in done.stdout.splitlines() if line.strip()]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _reason(exc: Exception) -> str:
    return "it is not installed here" if isinstance(exc, FileNotFoundError) else str(exc)
