"""What a notebook, torchrun, MPI or an allocation left in the environment does not reach a job's stages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.job_runs import claimed_run, stored

from cefr_batch.job.environment import stage_environment
from cefr_batch.records import layout
from cefr_batch.records.layout import WorkDir
from cefr_batch.store.local import LocalStore

# As torchrun 2.13 sets them for a process of a group of two (its other process does not exist here).
TORCHRUN = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "0",
    "GROUP_WORLD_SIZE": "1",
    "ROLE_RANK": "0",
    "ROLE_WORLD_SIZE": "2",
    "ROLE_NAME": "default",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29555",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_MAX_RESTARTS": "0",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_ERROR_FILE": "/nowhere/error.json",
}
OTHERS = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
    "PMIX_RANK": "1",
    "MV2_COMM_WORLD_RANK": "1",
    "I_MPI_PMI_LIBRARY": "/nowhere.so",
    "MPI_LOCALRANKID": "1",
    "NODE_RANK": "1",
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_JOB_ID": "7",
    "ACCELERATE_MIXED_PRECISION": "fp8",
    "ACCELERATE_USE_FSDP": "true",
}
KEPT = ("HF_TOKEN", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "WANDB_API_KEY", "NCCL_DEBUG", "HOSTNAME", "LOGNAME")


def test_what_belongs_to_a_process_group_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *OTHERS, *KEPT):
        monkeypatch.setenv(name, "x")
    found = stage_environment(WorkDir(tmp_path), gpus=0)
    assert set(found) & {*TORCHRUN, *OTHERS} == set()
    assert {name: found[name] for name in KEPT} == dict.fromkeys(KEPT, "x")
    assert set(os.environ) - set(found) == {*TORCHRUN, *OTHERS}


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [1, 2])
def test_a_run_started_by_torchrun_or_in_an_allocation_trains_with_its_own_processes(
    tiny_model: Path, tmp_path: Path, gpus: int
) -> None:
    """Without this, the run waits half an hour for the other process, or fails for want of an address."""
    store = LocalStore(tmp_path / "store")
    extra = ["training.max_steps=2", f"resources.gpus={gpus}", "training.gradient_accumulation_steps=2"]
    run = claimed_run(store, tiny_model, *extra)
    command = [sys.executable, "-m", "cefr_batch", "run-job", run, "--store", store.url]
    done = subprocess.run(command, env={**os.environ, **OTHERS, **TORCHRUN}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stored(store, run, layout.METRICS)["train"]["gpus"] == gpus


def test_the_allocator_extends_its_segments_unless_the_user_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    assert stage_environment(WorkDir(tmp_path), gpus=0)["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    assert stage_environment(WorkDir(tmp_path), gpus=0)["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:64"
