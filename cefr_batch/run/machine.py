"""Can this machine do the run? Asked before anything is computed, so that a wrong node costs seconds, not hours.

Light: the GPU is asked by ``nvidia-smi``, which every container runtime brings in beside the driver; torch is not imported.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path

from cefr_batch import layout
from cefr_batch.architecture import Architecture
from cefr_batch.errors import MachineError, Problem
from cefr_batch.fit import gigabytes
from cefr_batch.levels import RunSpec
from cefr_batch.memory import BF16, FP32, Batch, Machine, evaluation_memory, training_memory

# The oldest driver for each major version of CUDA: "Minor Version Compatibility" in NVIDIA's CUDA Compatibility guide,
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
BF16_CAPABILITY = 8.0  # Ampere: torch.cuda.is_bf16_supported

PROMISED_GPUS = "CEFR_BATCH_PROMISED_GPUS"  # how many, in the environment of the stages

_SMI_SECONDS = 60


@dataclass(frozen=True)
class Gpu:
    """A GPU as ``nvidia-smi --query-gpu`` shows it. Memory in bytes; None where it says N/A, as for memory of the host."""

    index: str
    name: str
    driver: str
    free: int | None
    capability: float | None

    FIELDS = "index,name,driver_version,memory.free,compute_cap"

    @classmethod
    def of(cls, line: str) -> Gpu:
        index, name, driver, free, capability = (part.strip() for part in line.split(","))
        mib = _number(free)
        return cls(index, name, driver, None if mib is None else round(mib * 2**20), _number(capability))

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name})"


def check_machine(spec: RunSpec, model: Architecture | None, work: Path, gpus: int) -> None:
    """``model``: its sizes, if they are known. ``work``: the run's folder. ``gpus``: how many the site promised, 0 for none.

    Raises ``MachineError`` with everything that is wrong.
    """
    problems = [*_disk(spec, model, work), *(_gpus(spec, model, gpus) if gpus else ())]
    if problems:
        raise MachineError(problems)


def disk_needed(spec: RunSpec, model: Architecture) -> int:
    """Bytes that a run writes below its folder: the merged model in 16 bits, the adapter in 32, and the checkpoints that
    exist at once (those kept, the best, and the one being written), each with AdamW's two states."""
    lora = model.lora_parameters(spec.lora.rank, spec.lora.target_modules)
    checkpoints = spec.training.keep_checkpoints + 2
    return BF16 * model.parameters + FP32 * lora * (1 + 3 * checkpoints)


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
    torch, cuda = _torch()
    if cuda is None:
        yield Problem("torch", f"{torch} cannot use a GPU; take the image's target cuda, or make setup-unsloth")
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        yield Problem(
            "GPU", f"{promised} promised, and CUDA_VISIBLE_DEVICES is set and empty, which hides all; unset it"
        )
        return
    try:
        found = _query()
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        yield Problem("GPU", f"{promised} promised, and nvidia-smi shows none ({_reason(exc)}); {_BRING_IN}")
        return
    if len(found) < promised:
        yield Problem("GPU", f"{promised} promised, and nvidia-smi shows {len(found)}; {_BRING_IN}")
    for gpu in found[:promised]:
        yield from _gpu(spec, model, gpu, cuda)


_BRING_IN = (
    "ask the scheduler for it (gres, nvidia.com/gpu), and the container runtime to bring in its driver "
    "(docker --gpus all, apptainer --nv)"
)


def _gpu(spec: RunSpec, model: Architecture | None, gpu: Gpu, cuda: str | None) -> Iterator[Problem]:
    oldest = OLDEST_DRIVER.get(int(cuda.split(".")[0])) if cuda else None
    if oldest and int(gpu.driver.split(".")[0]) < oldest:
        yield Problem(
            str(gpu), f"driver {gpu.driver} is too old for CUDA {cuda} of this torch, which needs {oldest} or newer"
        )
    bf16 = gpu.capability is None or gpu.capability >= BF16_CAPABILITY
    if spec.training.precision == "bf16" and not bf16:
        yield Problem(
            str(gpu),
            f"has no bf16 (compute capability {gpu.capability}, {BF16_CAPABILITY} has it); set training.precision=auto",
        )
    batch = Batch(1, spec.training.max_length)
    machine = Machine(cuda=True, bf16=bf16 and spec.training.precision != "fp32")
    if model is None or gpu.free is None:
        return
    training = training_memory(model, spec, batch, machine).total
    evaluation = evaluation_memory(model, spec, batch, machine)
    if gpu.free < max(training, evaluation):
        needs = f"{'training' if training >= evaluation else 'evaluation'} needs about"
        yield Problem(
            str(gpu),
            f"{gigabytes(gpu.free)} are free, and {needs} {gigabytes(max(training, evaluation))} for one example at a "
            "time; see with nvidia-smi who has the rest, or take another node",
        )


def _query() -> list[Gpu]:
    """The GPUs of this job: those that ``CUDA_VISIBLE_DEVICES`` names, where it is set."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    selection = [f"--id={chosen}"] if chosen and "MIG" not in chosen else []
    command = ["nvidia-smi", f"--query-gpu={Gpu.FIELDS}", "--format=csv,noheader,nounits", *selection]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_SECONDS, check=False)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise ValueError(lines[0] if lines else f"exit code {done.returncode}")
    return [Gpu.of(line) for line in done.stdout.splitlines() if line.strip()]


def _torch() -> tuple[str, str | None]:
    """torch's version, and the version of CUDA that it was built for; from its one file that imports nothing of it."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        return "a torch that is not installed", None
    values = run_path(str(Path(found.origin).with_name("version.py")))
    return str(values["__version__"]), values["cuda"]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _reason(exc: Exception) -> str:
    return "it is not installed here" if isinstance(exc, FileNotFoundError) else str(exc)
