"""The evaluations that were asked of a complete run: fetch what they need, compute in a child process, store each one.

Light, like the supervisor: it says how far it is and stores what is finished while its child computes.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cefr_batch.errors import AlreadyExists, CefrBatchError, Interrupted
from cefr_batch.job.evaluations import EVALUATIONS
from cefr_batch.job.heartbeat import Heartbeat
from cefr_batch.job.log import LogFile, logging_to
from cefr_batch.job.signals import StopSignals
from cefr_batch.job.stage_runner import StageRunner, failure
from cefr_batch.job.status_writer import StatusWriter
from cefr_batch.job.store_retry import StoreRetry
from cefr_batch.job.sync import GrowingFiles
from cefr_batch.job.work_folder import work_folder
from cefr_batch.records import layout
from cefr_batch.records.document import write_file
from cefr_batch.records.evaluations import EvaluationRequest, EvaluationTask
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.spec import SpecRecord
from cefr_batch.runner.artifacts import select_artifacts
from cefr_batch.runner.evaluations import EvaluationFacts, evaluation_submission, open_tasks
from cefr_batch.runner.submission import newest_attempt
from cefr_batch.store.base import Store
from cefr_batch.store.datasets import fetch_dataset

log = logging.getLogger(__name__)

_BEAT_SECONDS = 2.0


def evaluate_sets(store: Store, run: str, work_root: Path, gpus: int = 0) -> None:
    """Do what is open of the evaluations that were asked of a complete run, until nothing is: more may be asked meanwhile.

    Blocks. Raises ``Interrupted`` when it is asked to stop, ``JobFailed`` or another ``CefrBatchError`` when it fails;
    whatever was finished is stored, and the store says how it ended.
    """
    while attempt := StoreRetry().fetch(lambda: _begin(store, run, work_root, gpus)):
        attempt.run()


def _begin(store: Store, run: str, work_root: Path, gpus: int) -> Evaluator | None:
    """An attempt at what is open; None if nothing is. Can be repeated where the store fails."""
    if not (tasks := open_tasks(store, run)):
        return None
    submission = evaluation_submission(store, run)
    if submission and submission.cancelled_at:
        raise Interrupted(f"the evaluations of {run} were cancelled; {EvaluationFacts(run).next_step}")
    return Evaluator(store, run, tasks, work_root, gpus)


class Evaluator:
    """One attempt at some evaluations of a run. Two at once do no harm: of a document that both compute, the first stays."""

    def __init__(self, store: Store, run: str, tasks: list[EvaluationTask], work_root: Path, gpus: int) -> None:
        self._store, self._run, self._tasks = store, run, tasks
        self._record = store.get_record(layout.run_key(run, layout.SPEC), SpecRecord)
        self._work = WorkDir.of(work_root, store.url, run)
        attempt = 1 + newest_attempt(store, run, layout.EVALUATION_LOGS)
        self._log = layout.log_name(attempt, layout.EVALUATION_LOGS)
        self._status = StatusWriter(
            store, run, attempt, self._work, stage=EVALUATIONS, done=self._finished, name=layout.EVALUATION_STATUS
        )
        self._child = StageRunner(self._work, gpus)
        self._signals = StopSignals(self._child.terminate)
        again = f"the same `cefr-batch evaluate {run} --on …` as before"
        stores = f"{again} stores it if its job has this folder, else repeats it"
        self._retry = StoreRetry(self._work.root, lambda: self._signals.requested, stores)
        self._stored: set[str] = set()
        self._logs = GrowingFiles(store, run, self._work)

    def run(self) -> None:
        """See ``evaluate_sets``."""
        path = self._work.path(self._log)
        with work_folder(self._work, self._run, self._record), self._signals:
            path.parent.mkdir(parents=True, exist_ok=True)
            with logging_to(LogFile(path)):
                try:
                    with Heartbeat(self._beat, _BEAT_SECONDS):
                        self._compute()
                    self._retry(lambda: self._push(last=True))
                except Exception as exc:
                    self._end(exc)
                    raise
            shutil.rmtree(self._work.root, ignore_errors=True)

    def _compute(self) -> None:
        left = [task for task in self._tasks if task.name not in self._finished()]
        log.info(
            "cefr-batch: evaluations of %s: %s", self._run, ", ".join(f"{task.model} on {task.label}" for task in left)
        )
        self._retry.fetch(lambda: self._fetch(left))
        write_file(self._work.path(layout.EVALUATION_REQUEST), EvaluationRequest(run=self._run, tasks=left))
        if self._signals.requested:
            raise self._interrupted()
        if left and (code := self._child.run([EVALUATIONS])):
            raise self._failure(code)

    def _fetch(self, left: Sequence[EvaluationTask]) -> None:
        """Bring the model and the sets. Idempotent."""
        self._beat()
        if any(task.model == "tuned" for task in left):
            select_artifacts(self._store, self._run, [layout.ADAPTER]).fetch(self._work.root)
        fetch_dataset(self._store, self._record.dataset, self._work.dataset)
        for sha256 in {task.dataset for task in left}:
            fetch_dataset(self._store, sha256, self._work.sets / sha256)

    def _failure(self, code: int) -> CefrBatchError:
        if self._signals.requested:
            return self._interrupted()
        return failure(self._work, self._status.stage, code) or self._interrupted()

    def _interrupted(self) -> Interrupted:
        done = f"{len(self._finished())} of {len(self._tasks)} evaluations are stored"
        return Interrupted(f"stopped on request; {done}; {EvaluationFacts(self._run).next_step}")

    def _finished(self) -> list[str]:
        """The evaluations that are in the work folder: this attempt's, and those of one that was killed here."""
        names = {file.stem for file in self._work.path(layout.EVALUATIONS).glob("*.json")}
        return [task.name for task in self._tasks if task.name in names]

    def _beat(self) -> None:
        self._status.write("RUNNING")
        self._push()

    def _push(self, *, last: bool = False) -> None:
        """Store what is finished, and the log. ``last``: no other push follows. Idempotent."""
        for name in set(self._finished()) - self._stored:
            document = layout.evaluation_name(name)
            with suppress(AlreadyExists):  # another job's: reports and pull may know it by its checksum
                data = self._work.path(document).read_bytes()
                self._store.put(layout.run_key(self._run, document), data, if_absent=True)
            self._stored.add(name)
        self._logs.push([self._log], last=last)

    def _end(self, exc: Exception) -> None:
        """Store what there is, then say how it ended. A store that fails here must not hide the failure itself."""
        known = isinstance(exc, CefrBatchError)
        message = str(exc) if known else f"internal error: {type(exc).__name__}: {exc}"
        log.error("cefr-batch: %s", message)

        def store_the_end() -> None:
            self._push(last=True)
            self._status.write("PREEMPTED" if isinstance(exc, Interrupted) else "FAILED", message)

        try:
            self._retry(store_the_end)
        except CefrBatchError as failed:
            log.error("cefr-batch: not everything could be stored: %s", failed)
