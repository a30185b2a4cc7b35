"""``status.json``: what the job says of itself."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Literal

from cefr_batch.errors import StoreError
from cefr_batch.records import layout
from cefr_batch.records.document import read_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.status import Progress, Status
from cefr_batch.records.timestamps import now
from cefr_batch.store.base import Store


class StatusWriter:
    """Writes the status of one attempt. ``stage``: the one that is under way, as far as it is known; ``done``: those that
    are finished; ``before``: what the attempt before said last; ``name``: the object's, relative to the run."""

    def __init__(
        self,
        store: Store,
        run: str,
        attempt: int,
        work: WorkDir,
        *,
        stage: str,
        done: Callable[[], list[str]],
        before: Status | None = None,
        name: str = layout.STATUS,
    ) -> None:
        self._store, self._run, self._attempt, self._work = store, run, attempt, work
        self._done, self._name = done, name
        # The last of training, which later stages and attempts show too.
        self._losses = _losses(before) if before else {}
        self.stage = stage

    def write(
        self,
        state: Literal["RUNNING", "PREEMPTED", "FAILED"],
        message: str = "",
        *,
        stopping: bool = False,
        paused: bool = False,
    ) -> None:
        """Put the status into the store, with the progress that the stage's process last wrote. Raises ``StoreError``."""
        progress = self._progress()
        if state == "RUNNING" and progress:
            self.stage = progress.stage
        if progress:
            self._losses |= _losses(progress)
        status = Status(
            run=self._run,
            attempt=self._attempt,
            state=state,
            stage=self.stage,
            stages_done=self._done(),
            step=progress.step if progress else None,
            steps=progress.steps if progress else None,
            epoch=self._losses.get("epoch"),
            loss=self._losses.get("loss"),
            eval_loss=self._losses.get("eval_loss"),
            eta_seconds=progress.eta_seconds if progress else None,
            updated_at=now(),
            host=socket.gethostname(),
            pid=os.getpid(),
            message=message,
        )
        said = {name: True for name, value in (("stopping", stopping), ("paused", paused)) if value}
        self._store.put_record(layout.run_key(self._run, self._name), status.model_copy(update=said))

    def _progress(self) -> Progress | None:
        try:
            return read_file(Progress, self._work.progress)
        except (OSError, StoreError):
            return None


def _losses(said: Progress | Status) -> dict[str, float]:
    found = {"epoch": said.epoch, "loss": said.loss, "eval_loss": said.eval_loss}
    return {name: value for name, value in found.items() if value is not None}
