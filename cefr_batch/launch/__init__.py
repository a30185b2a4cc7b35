"""Where runs go. A launcher loads only when its name is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from cefr_batch.errors import UsageError
from cefr_batch.launch.base import Batch, Check, Job, JobOrder, Launcher, Observation, State

LAUNCHERS = {
    "local": "cefr_batch.launch.local:LocalLauncher",
    "slurm": "cefr_batch.launch.slurm.launcher:SlurmLauncher",
    "k8s": "cefr_batch.launch.k8s.launcher:KubernetesLauncher",
}
SITES = ("slurm", "k8s")  # launchers with site files: `slurm/NAME` is the launcher with that site

__all__ = [
    "LAUNCHERS",
    "Batch",
    "Check",
    "Job",
    "JobOrder",
    "Launcher",
    "Observation",
    "State",
    "get_launcher",
    "launcher_names",
]


def get_launcher(name: str) -> Launcher[Any]:
    """The launcher of this name, such as ``local``; ``slurm/NAME`` or ``k8s/NAME`` with that site. Raises ``UsageError``."""
    kind, slash, site = name.partition("/")
    target = LAUNCHERS.get(kind)
    if target is None or (slash and kind not in SITES):
        raise UsageError(f"cluster {name!r} is not known; valid: {launcher_names()}")
    module, _, attribute = target.partition(":")
    launcher: Launcher[Any] = getattr(import_module(module), attribute)(*([site] if slash else []))
    return launcher


def launcher_names() -> str:
    """What ``--cluster`` takes, for a message."""
    return ", ".join([*LAUNCHERS, *(f"{kind}/NAME" for kind in SITES)])
