"""Where runs go. A launcher loads only when its name is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from cefr_batch.errors import UsageError
from cefr_batch.launch.base import Job, JobOrder, Launcher, Observation, State

LAUNCHERS = {"local": "cefr_batch.launch.local:LocalLauncher"}

__all__ = ["LAUNCHERS", "Job", "JobOrder", "Launcher", "Observation", "State", "get_launcher"]


def get_launcher(name: str) -> Launcher[Any]:
    """The launcher of this name (also the scheme of its handles)."""
    target = LAUNCHERS.get(name)
    if target is None:
        raise UsageError(f"cluster {name!r} is not known; valid: {', '.join(sorted(LAUNCHERS))}")
    module, _, attribute = target.partition(":")
    launcher: Launcher[Any] = getattr(import_module(module), attribute)()
    return launcher
