"""A job without training, started by the real local scheduler: it waits its turn, beats, and ends as the test says.

The test makes a file ``<run>.finish``, ``<run>.fail`` or ``<run>.vanish`` in the folder ``CEFR_BATCH_TEST_FOLDER``.
Each job that gets its turn adds its run's name to the file ``started`` there.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

from cefr_batch.records import layout
from cefr_batch.records.timestamps import now
from cefr_batch.schedulers.base import Check, JobSpec
from cefr_batch.schedulers.local.queue import QueueSlot
from cefr_batch.schedulers.local.scheduler import LocalRequest, LocalScheduler
from cefr_batch.store import Store, open_store

FOLDER = "CEFR_BATCH_TEST_FOLDER"


class StandInLauncher(LocalScheduler):
    """The local scheduler, with this file's program as its job."""

    def process(self, spec: JobSpec) -> LocalRequest:
        program = (sys.executable, __file__, spec.run, spec.store_url)
        return replace(super().process(spec), command=program)

    def check(self, backends: Iterable[str], store_url: str) -> list[Check]:
        return []


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a condition; fail if it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.02)


def started(folder: Path) -> list[str]:
    """The runs whose jobs got their turn, in that order."""
    file = folder / "started"
    return file.read_text().split() if file.exists() else []


def status(
    run: str, state: str, *, attempt: int = 1, message: str = "", updated_at: str | None = None
) -> dict[str, object]:
    """A ``status.json`` at step 3 of 12."""
    return {
        "run": run,
        "attempt": attempt,
        "state": state,
        "stage": "train",
        "stages_done": ["data", "baseline"],
        "step": 3,
        "steps": 12,
        "epoch": 0.5,
        "loss": 1.25,
        "eval_loss": None,
        "eta_seconds": 65.0,
        "updated_at": updated_at or datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "message": message,
    }


def main(run: str, store_url: str) -> int:
    with QueueSlot.of_this_job().turn():
        return job(run, store_url)


def job(run: str, store_url: str) -> int:
    store, folder = open_store(store_url), Path(os.environ[FOLDER])
    stored = store.objects(layout.run_key(run, layout.LOGS) + "/")
    attempt = max((layout.log_attempt(o.key) or 0 for o in stored), default=0) + 1

    def preempted(number: int, frame: FrameType | None) -> None:
        _beat(store, run, "PREEMPTED", attempt, "stopped on request in stage train; its last checkpoint is of step 3")
        sys.exit(75)

    signal.signal(signal.SIGTERM, preempted)
    store.put(layout.run_key(run, layout.log_name(attempt)), f"attempt {attempt} begins\n".encode())
    with (folder / "started").open("a") as file:
        file.write(f"{run}\n")
    while True:
        _beat(store, run, "RUNNING", attempt)
        if (folder / f"{run}.vanish").exists():
            os._exit(9)
        if (folder / f"{run}.fail").exists():
            _beat(store, run, "FAILED", attempt, "the stage train failed as asked")
            return 1
        if (folder / f"{run}.finish").exists():
            log = f"attempt {attempt} begins\nattempt {attempt} ends\n"
            store.put(layout.run_key(run, layout.log_name(attempt)), log.encode())
            store.put_json(layout.run_key(run, layout.MANIFEST), {"run": run, "complete_at": now(), "objects": []})
            return 0
        time.sleep(0.05)


def _beat(store: Store, run: str, state: str, attempt: int, message: str = "") -> None:
    store.put_json(layout.run_key(run, layout.STATUS), status(run, state, attempt=attempt, message=message))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
