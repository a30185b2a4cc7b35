"""Before a job trains, its machine is asked whether it can: each thing that is wrong is named, all of them at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from support.job_runs import claimed_run, stored, work_folder

from cefr_batch.config.load import load_spec
from cefr_batch.errors import JobFailed, MachineError, ModelError
from cefr_batch.job import machine
from cefr_batch.job.machine import check_machine
from cefr_batch.job.supervisor import run_job
from cefr_batch.models.architecture import Architecture
from cefr_batch.planning.disk import disk_needed
from cefr_batch.records import layout
from cefr_batch.schedulers import base
from cefr_batch.store.local import LocalStore
from cefr_batch.training.ddp import train_in_processes
from cefr_batch.training.task import TrainingTask

LLAMA_1B = Architecture(2048, 8192, 16, 2048, 512, 32, 128256, tied=True)
RTX_4090 = "0, NVIDIA GeForce RTX 4090, 580.65.06, 24111, 8.9"


class Disk(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with all packages, a torch for CUDA 13.0, a large disk, and a stand-in for nvidia-smi in the folder that is
    returned."""
    monkeypatch.setattr(machine, "installed_torch", lambda: ("2.14.1", "13.0"))
    monkeypatch.setattr(base, "find_spec", lambda name: name)  # every package is there
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10**12, 0, 10**12))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def nvidia_smi(site: Path, *gpus: str, code: int = 0) -> None:
    """A stand-in: prints these lines, as `nvidia-smi --query-gpu=… --format=csv,noheader,nounits` does, and its arguments
    to a file."""
    script = site / "nvidia-smi"
    lines = "\n".join(f"echo '{gpu}'" for gpu in gpus)
    script.write_text(f"#!/bin/sh\necho \"$@\" > '{site}/arguments'\n{lines}\nexit {code}\n")
    script.chmod(0o755)


def problems(site: Path, *settings: str, gpus: int = 1, model: Architecture | None = LLAMA_1B) -> list[str]:
    spec = load_spec("B1", overrides=["backend=unsloth", *settings])
    try:
        check_machine(spec, model, site, gpus)
    except MachineError as exc:
        return [str(problem) for problem in exc.problems]
    return []


def test_packages_that_training_needs_are_asked_for_before_anything_is_computed(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an image for CPUs, which has no Unsloth. Every pod has the same image, so nobody starts the job again."""
    monkeypatch.setattr(base, "find_spec", lambda name: None if name in ("unsloth", "trl") else name)
    with pytest.raises(
        ModelError, match=r" has no trl, unsloth, which training with unsloth .*, or set backend=peft$"
    ) as told:
        problems(site, gpus=0)
    assert told.value.permanent
    with pytest.raises(ModelError, match=r" has no trl, which training with peft needs; use an image .*unsloth.md\)$"):
        problems(site, "backend=peft", gpus=0)


def test_a_card_with_room_is_fine(site: Path) -> None:
    nvidia_smi(site, RTX_4090)
    assert problems(site, "training.precision=bf16") == []
    asked = (site / "arguments").read_text()
    assert asked == "--query-gpu=index,name,driver_version,memory.free,compute_cap --format=csv,noheader,nounits\n"


def test_a_site_that_promised_no_gpu_is_asked_for_none(site: Path) -> None:
    assert problems(site, gpus=0) == []


def test_everything_that_is_wrong_is_named_at_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10**12, 10**12, 3 * 10**9))
    nvidia_smi(site, "0, Tesla T4, 470.82.01, 1024, 7.5")
    found = problems(site, "training.precision=bf16", gpus=2)
    assert len(found) == 5
    disk, missing, driver, bf16, memory = found
    assert disk.startswith(f"work folder {site}: 3.0 GB are free, and the run writes about ")
    assert "--work or CEFR_BATCH_WORK" in disk
    assert missing.startswith("GPU: this job should have 2 GPUs, but nvidia-smi shows 1; request them in the site file")
    where = "GPU 0 (Tesla T4): "
    assert driver == (
        f"{where}driver 470.82.01 is too old: the installed torch is built for CUDA 13.0, which needs 580 or newer; "
        "ask your cluster's administrators for a driver update, or use another node"
    )
    assert bf16 == where + "has no bf16 (compute capability 7.5; bf16 needs 8.0); set training.precision=auto"
    assert memory.startswith(where + "1.1 GB are free, and training needs about ")
    assert memory.endswith("for one example at a time; see with nvidia-smi what uses the rest, or use another node")


def test_a_container_without_the_driver(site: Path) -> None:
    (found,) = problems(site)
    none = "GPU: this job should have 1 GPU, but nvidia-smi shows none (it is not installed here); request them"
    assert found.startswith(none)
    assert "docker --gpus all, apptainer --nv" in found


def test_what_nvidia_smi_says_is_passed_on(site: Path) -> None:
    nvidia_smi(site, "Failed to initialize NVML: Driver/library version mismatch", code=18)
    (found,) = problems(site)
    assert "(Failed to initialize NVML: Driver/library version mismatch)" in found


def test_a_torch_without_cuda(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "installed_torch", lambda: ("2.13.0+cpu", None))
    nvidia_smi(site, RTX_4090)
    assert problems(site) == [
        "torch: the installed torch 2.13.0+cpu has no GPU support; use the image built with --target cuda, or the "
        "environment of `make setup-unsloth`"
    ]


def test_the_gpus_of_this_job_are_asked_for(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    nvidia_smi(site, RTX_4090, RTX_4090)
    assert problems(site, gpus=2) == []
    assert (site / "arguments").read_text().endswith(" --id=1,3\n")


def test_gpus_that_are_hidden_are_not_there(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    nvidia_smi(site, RTX_4090)
    assert problems(site) == [
        "GPU: this job should have 1 GPU, but CUDA_VISIBLE_DEVICES is set to an empty value, which hides them all; unset it"
    ]


def test_a_card_must_hold_the_evaluation_too(site: Path) -> None:
    """It computes in fp32: 4.9 GB of weights, where training has 1 GB of them in 4-bit."""
    nvidia_smi(site, "0, NVIDIA L4, 580.65.06, 5000, 8.9")
    (found,) = problems(site, "lora.rank=8")
    assert found.startswith("GPU 0 (NVIDIA L4): 5.2 GB are free, and evaluation needs about 5.8 GB")


def test_a_resumed_run_needs_no_room_for_what_is_there(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = disk_needed(load_spec("B1", overrides=["backend=unsloth"]), LLAMA_1B)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10**12, 0, needed - 10**9))
    assert len(problems(site, gpus=0)) == 1
    weights = site / layout.checkpoint_name(50) / "optimizer.pt"
    weights.parent.mkdir(parents=True)
    with weights.open("wb") as file:
        file.truncate(10**9 - 1)  # sparse: it takes no room in this test
    os.link(weights, weights.with_name("the same file"))
    assert len(problems(site, gpus=0)) == 1
    with weights.open("ab") as file:
        file.truncate(10**9)
    assert problems(site, gpus=0) == []


def test_memory_that_is_not_told_is_not_judged(site: Path) -> None:
    nvidia_smi(site, "0, NVIDIA GB10, 580.95.05, [N/A], 12.1")
    assert problems(site) == []


def test_fp32_needs_more_of_a_card(site: Path) -> None:
    """The weights of 1.24 billion parameters take 2.5 GB in bf16 and 4.9 GB in fp32."""
    nvidia_smi(site, "0, NVIDIA L4, 580.65.06, 6000, 8.9")
    settings = ("backend=peft", "model.load_in_4bit=false", "training.max_length=64", "lora.rank=8")
    assert problems(site, *settings, "training.precision=bf16") == []
    (found,) = problems(site, *settings, "training.precision=fp32")
    assert "are free, and training needs about" in found


def test_of_a_model_of_unknown_sizes_neither_memory_nor_disk_is_judged(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10**12, 10**12, 10))
    nvidia_smi(site, "0, NVIDIA L4, 580.65.06, 10, 8.9")
    assert problems(site, model=None) == []


def test_disk_for_the_published_setting() -> None:
    """Rank 128 on Llama 3.2 1B: 90.2 million trained weights, of which four checkpoints with three numbers each exist at
    once, beside the merged model of 1.236 billion weights."""
    spec = load_spec("B1", overrides=["backend=unsloth"])
    expected = 2 * 1.2358e9 + 4 * 90.18e6 * (1 + 3 * 4)
    assert disk_needed(spec, LLAMA_1B) == pytest.approx(expected, rel=1e-3)


def test_a_job_on_the_wrong_machine_ends_before_it_computes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "store")
    run = claimed_run(store, tiny_model)
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    with pytest.raises(MachineError, match="this job should have 1 GPU, but nvidia-smi shows none") as caught:
        run_job(store, run, tmp_path / "work", gpus=1)
    assert caught.value.exit_code == 1
    status = stored(store, run, layout.STATUS)
    assert (status["state"], status["stages_done"]) == ("FAILED", ["data"])
    assert "nvidia-smi" in status["message"]


@pytest.mark.slow
def test_a_gpu_that_only_nvidia_smi_sees_stops_the_job(
    site: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here torch has none: the job must not compute for days on the CPU of a node with GPUs."""
    nvidia_smi(site, RTX_4090)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    store = LocalStore(site / "store")
    run = claimed_run(store, tiny_model)
    with pytest.raises(
        JobFailed, match=r"^GPU: this job should have 1 GPU, but torch .* cannot use any; run .* on this node"
    ):
        run_job(store, run, site / "work", gpus=1)
    assert stored(store, run, layout.STATUS)["stages_done"] == ["data"]


def test_fewer_gpus_than_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that sees one GPU is faked."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    spec = load_spec("B1", overrides=["backend=peft", "resources.gpus=2"])
    work = work_folder(tmp_path / "run", spec)
    with pytest.raises(
        MachineError, match=r"^GPU: resources\.gpus is 2, but torch sees 1; request more in the site file"
    ):
        train_in_processes(TrainingTask(spec, tmp_path, (), (), work), None)


@pytest.mark.slow
def test_torch_is_asked_without_importing_it() -> None:
    code = (
        "import sys; from cefr_batch.models.device import installed_torch; found = installed_torch(); "
        "assert 'torch' not in sys.modules; "
        "import torch; assert found == (torch.__version__, torch.version.cuda), found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
