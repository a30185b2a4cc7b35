"""How a stage tells the job how far it is: by a small file that the job's heartbeat reads."""

from __future__ import annotations

import time
from pathlib import Path

from cefr_batch.records.document import write_file
from cefr_batch.records.status import Progress

_EVERY_SECONDS = 0.5


class ProgressFile:
    """Writes ``control/progress.json``, at most twice a second. Not thread-safe."""

    def __init__(self, path: Path, stage: str = "") -> None:
        self._path = path
        self.stage = stage
        self._written = 0.0

    def begin(self, stage: str) -> None:
        """A new stage begins."""
        self.stage = stage
        self.update(at_once=True)

    def update(
        self,
        *,
        step: int | None = None,
        steps: int | None = None,
        epoch: float | None = None,
        loss: float | None = None,
        eval_loss: float | None = None,
        eta_seconds: float | None = None,
        at_once: bool = False,
    ) -> None:
        """Record the stage's progress, as in ``records.status.Progress``. Skipped if the last update was just now, unless
        this one is the last (``step == steps``) or ``at_once``."""
        now = time.monotonic()
        if not (at_once or step == steps or now - self._written > _EVERY_SECONDS):
            return
        self._written = now
        progress = Progress(
            stage=self.stage,
            step=step,
            steps=steps,
            epoch=epoch,
            loss=loss,
            eval_loss=eval_loss,
            eta_seconds=eta_seconds,
        )
        write_file(self._path, progress)

    def count(self, done: int, total: int) -> None:
        """So many of so many examples are done. Recorded at once if none is."""
        self.update(at_once=done == 0, step=done, steps=total)
