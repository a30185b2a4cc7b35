"""Data-parallel training: torchrun's launcher starts a process for each GPU, each trains its share of every step."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from cefr_batch.errors import Interrupted, JobFailed, MachineError, Problem
from cefr_batch.training.process import read_error, start_process, write_error
from cefr_batch.training.task import Trained, TrainingTask

STOP_SECONDS = 60  # for the step that is under way and its checkpoint; then the processes are killed


def train_in_processes(task: TrainingTask, resume: Path | None) -> Trained:
    """As ``training.trainer.train``, with ``resources.gpus`` processes on this machine. Returns the first one's result.

    Raises ``MachineError`` where torch sees fewer GPUs, and the error of the process that failed first.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _check_gpus(task.spec.resources.gpus)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=task.spec.resources.gpus,
        logs_specs=DefaultLogsSpecs(log_dir=str(task.work.tmp)),
        run_id=task.work.root.name,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",  # any free port
        local_addr="127.0.0.1",
        max_restarts=0,
        shutdown_timeout=STOP_SECONDS,
    )
    try:
        results = elastic_launch(config, _process)(task, resume, os.getpid())
    except SignalException as exc:
        raise read_error(task.work, "train") or Interrupted("stopped on request") from exc
    except ChildFailedError as exc:
        rank, failure = exc.get_first_failure()
        text = f"process {rank} of training ended with exit code {failure.exitcode}; see the log"
        if failure.exitcode == -signal.SIGKILL:
            task.work.error.unlink(missing_ok=True)  # of the others, which fail because this one is gone
            text = f"process {rank} of training was killed by the system, most likely because memory ran out"
        raise read_error(task.work, "train") or JobFailed(text) from exc
    first: Trained = results[0]
    return first


def _check_gpus(wanted: int) -> None:
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else wanted  # all processes can share the CPU
    if found < wanted:
        remedy = f"request more in the site file, or set resources.gpus={found}"
        text = f"resources.gpus is {wanted}, but torch sees {found}; {remedy}"
        raise MachineError([Problem("GPU", text)])


def _process(task: TrainingTask, resume: Path | None, parent: int) -> Trained:
    """One process of the group, with ``RANK`` and the like in its environment."""
    import torch

    from cefr_batch.training.trainer import train

    start_process(parent)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:  # transformers 5.17 loads a checkpoint to the device "cpu:0", which torch.load does not know
        torch.serialization.register_package(1, lambda _: None, _on_cpu)
    try:
        return train(task, resume)
    except Exception as exc:
        sys.exit(write_error(task.work, exc))  # the launcher would print a traceback for an expected error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _on_cpu(storage: Any, location: str) -> Any:
    return storage if location.startswith("cpu:") else None
