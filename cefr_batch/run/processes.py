"""Data-parallel training: torchrun's launcher starts a process for each GPU, each trains its share of every step."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cefr_batch.errors import CefrBatchError, Interrupted, JobFailed, MachineError, OutOfMemory, Problem
from cefr_batch.files import read_json
from cefr_batch.layout import WorkDir

if TYPE_CHECKING:
    from cefr_batch.run.stages import Context

STOP_SECONDS = 60  # for the step that is under way and its checkpoint; then the processes are killed


def train_in_processes(job: Context, resume: Path | None) -> dict[str, Any]:
    """What ``run.train.train`` does, by ``resources.gpus`` processes on this machine. Returns the first one's result."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _check_gpus(job.spec.resources.gpus)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.spec.resources.gpus,
        logs_specs=DefaultLogsSpecs(log_dir=str(job.work.tmp)),
        run_id=job.work.root.name,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",  # any free port
        local_addr="127.0.0.1",
        max_restarts=0,
        shutdown_timeout=STOP_SECONDS,
    )
    try:
        results = elastic_launch(config, _process)(job.work.root, resume, os.getpid())
    except SignalException as exc:
        raise _told(job.work, Interrupted("stopped on request")) from exc
    except ChildFailedError as exc:
        rank, failure = exc.get_first_failure()
        text = f"process {rank} of training ended with exit code {failure.exitcode}; the log has the details"
        if failure.exitcode == -signal.SIGKILL:
            job.work.error.unlink(missing_ok=True)  # the others only saw it go
            text = f"process {rank} of training was killed by the system, most likely for want of memory"
        raise _told(job.work, JobFailed(text)) from exc
    first: dict[str, Any] = results[0]
    return first


def _check_gpus(wanted: int) -> None:
    """Raises ``MachineError`` where there are GPUs, and fewer than processes."""
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else wanted  # all processes can share the CPU
    if found < wanted:
        text = f"resources.gpus is {wanted}, and torch sees {found}; ask the scheduler for more, or set it to {found}"
        raise MachineError([Problem("GPU", text)])


def _process(root: Path, resume: Path | None, parent: int) -> dict[str, Any]:
    """One process of the group, with ``RANK`` and the like in its environment."""
    import torch

    from cefr_batch.run.stages import Context, die_with, tell, train_here

    die_with(parent)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:  # transformers 5.17 loads a checkpoint to "cpu:0", a place that torch.load does not know
        torch.serialization.register_package(1, lambda _: None, _on_cpu)
    job = Context(WorkDir(root), stage="train")
    try:
        return train_here(job, resume)
    except Exception as exc:
        sys.exit(tell(job.work, exc))  # the launcher would print a traceback of what it says in a sentence
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _on_cpu(storage: Any, place: str) -> Any:
    return storage if place.startswith("cpu:") else None


def _told(work: WorkDir, otherwise: CefrBatchError) -> CefrBatchError:
    """What the process that failed first said of it, if it said anything."""
    if not work.error.is_file():
        return otherwise
    error = read_json(work.error)
    kinds = {kind.__name__: kind for kind in (OutOfMemory, Interrupted)}  # what the job acts on; the rest is words
    return kinds.get(error["kind"], JobFailed)(error["message"])
