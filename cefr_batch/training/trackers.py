"""The trackers of ``training.report_to``: the trainer's own integrations, none of which may cost a run.

What a tracker writes on this machine (all that it does where it works offline) goes to the run's folder ``tracking/``, which
is stored. Credentials come from the environment alone. Imports transformers, so a backend that patches it comes first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks
from typing_extensions import override

from cefr_batch.records import layout
from cefr_batch.records.layout import WorkDir
from cefr_batch.training.redaction import without_secrets

log = logging.getLogger(__name__)


class Trackers(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Passes on what happens to each tracker, until the tracker fails: then a warning says so, and training goes on."""

    def __init__(self, names: Sequence[str], work: WorkDir, resume: Path | None) -> None:
        """``resume``: the checkpoint that training starts from."""
        self._names, self._run = names, work.root.name
        self._live: dict[str, Any] = {}
        for key, value in _defaults(work, resume).items():
            os.environ.setdefault(key, value)
        work.path(layout.TRACKING).mkdir(exist_ok=True)

    @override
    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if not state.is_world_process_zero:
            return
        for name in self._names:
            try:
                self._live[name] = _begin(name, args, state, control, more)
            except Exception as exc:  # of any library that it uses
                if name == "wandb" and os.environ.get("WANDB_MODE") is None:
                    self._go_offline(exc, args, state, control, more)
                else:
                    _warn(name, exc)

    def _go_offline(self, exc: Exception, args: Any, state: Any, control: Any, more: dict[str, Any]) -> None:
        """Without a key, or without an answer from its server, W&B writes files that `wandb sync` uploads later."""
        import wandb

        text = (
            "wandb cannot be used online (%s), so it writes files; when the run is complete, "
            f"`cefr-batch pull {self._run} --only tracking` fetches them, and "
            f"`wandb sync pulled/{self._run}/{layout.TRACKING}/wandb/offline-run-*` uploads them"
        )
        log.warning(text, without_secrets(str(exc)))
        os.environ["WANDB_MODE"] = "offline"
        try:
            wandb.teardown()
            self._live["wandb"] = _begin("wandb", args, state, control, more)
        except Exception as again:
            _warn("wandb", again)

    @override
    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._tell("on_log", args, state, control, more)

    @override
    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._tell("on_save", args, state, control, more)

    @override
    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._tell("on_train_end", args, state, control, more)

    def _tell(self, event: str, args: Any, state: Any, control: Any, more: dict[str, Any]) -> None:
        for name, tracker in list(self._live.items()):
            try:
                getattr(tracker, event)(args, state, control, **more)
            except Exception as exc:
                del self._live[name]
                _warn(name, exc)


def _begin(name: str, args: Any, state: Any, control: Any, more: dict[str, Any]) -> Any:
    """The trainer's integration, connected."""
    (integration,) = get_reporting_integration_callbacks([name])
    tracker = integration()
    tracker.on_train_begin(args, state, control, **more)
    return tracker


def _warn(name: str, exc: Exception) -> None:
    log.warning("%s failed (%s); training continues without it", name, without_secrets(str(exc)))


def _defaults(work: WorkDir, resume: Path | None) -> dict[str, str]:
    """Where a tracker writes, and which of its runs a resumed run continues, unless the environment says otherwise. What an
    attempt on another machine stored is never written over: W&B and MLflow name their files anew, trackio does not."""
    folder = work.path(layout.TRACKING)
    return {
        "WANDB_DIR": str(folder),
        "WANDB_RUN_ID": f"{work.root.name}-{work.root.parent.name}",
        "WANDB_RESUME": "allow",
        "WANDB_PROJECT": "cefr-batch",
        "WANDB_SILENT": "true",
        "WANDB_DISABLE_GIT": "true",
        "WANDB_DISABLE_CODE": "true",
        "MLFLOW_TRACKING_URI": (folder / "mlruns").absolute().as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",  # 3.17 prefers a database, which several attempts cannot share
        "MLFLOW_EXPERIMENT_NAME": "cefr-batch",
        "TRACKIO_DIR": str(folder / "trackio" / (resume.name if resume else "start")),
    }
