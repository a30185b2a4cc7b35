"""Schedulers: this machine, SLURM and Kubernetes behind one interface. One is imported only when its name is used."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any

from cefr_batch.errors import UsageError
from cefr_batch.schedulers.base import Check, Job, JobGroup, JobSpec, Observation, Scheduler, State

SCHEDULERS = {
    "local": "cefr_batch.schedulers.local.scheduler:LocalScheduler",
    "slurm": "cefr_batch.schedulers.slurm.scheduler:SlurmScheduler",
    "k8s": "cefr_batch.schedulers.k8s.scheduler:KubernetesScheduler",
}
SITES = ("slurm", "k8s")  # schedulers with site files: `slurm/NAME` is the scheduler with that site

__all__ = [
    "SCHEDULERS",
    "Check",
    "Job",
    "JobGroup",
    "JobSpec",
    "Observation",
    "Scheduler",
    "State",
    "get_scheduler",
    "scheduler_names",
    "site_files",
    "turn_in_local_queue",
]


def get_scheduler(name: str) -> Scheduler[Any]:
    """A new object for the scheduler of this name: ``local``, ``slurm``, ``k8s``, or ``slurm/NAME`` or ``k8s/NAME`` with
    that site. Does not read the site file. Raises ``UsageError`` for any other name."""
    kind, slash, site = name.partition("/")
    target = SCHEDULERS.get(kind)
    if target is None or (slash and kind not in SITES):
        raise UsageError(f"cluster {name!r} is not known; valid: {scheduler_names()}")
    module, _, attribute = target.partition(":")
    scheduler: Scheduler[Any] = getattr(import_module(module), attribute)(*([site] if slash else []))
    return scheduler


def turn_in_local_queue() -> AbstractContextManager[None]:
    """A block that runs once all jobs submitted before to this machine's queue have ended. For a job that the scheduler
    ``local`` has started, or one that takes the last position now. Entering blocks; raises ``OSError`` where the queue
    cannot be written."""
    from cefr_batch.schedulers.local.queue import QueueSlot

    return QueueSlot.of_this_job().turn()


def site_files() -> dict[str, list[Path]]:
    """The site files by the names that ``--cluster`` takes, each with those that it stands in for after it."""
    from cefr_batch.config.layers import all_settings_files  # late: it loads pydantic, which --help does without

    found = ((kind, name, paths) for kind in SITES for name, paths in all_settings_files(kind).items())
    return {kind if name == "default" else f"{kind}/{name}": paths for kind, name, paths in found}


def scheduler_names() -> str:
    """The values that ``--cluster`` takes, for a message."""
    return ", ".join([*SCHEDULERS, *(f"{kind}/NAME" for kind in SITES)])
