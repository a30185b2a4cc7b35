"""The job: stages in order, resumed where an earlier attempt stopped, with a heartbeat, everything stored.

Light (no torch): the heavy stages run in child processes, see ``cefr_batch.job.child``.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

from cefr_batch.config.load import recorded_spec
from cefr_batch.errors import (
    AlreadyExists,
    CefrBatchError,
    Damaged,
    Interrupted,
    JobFailed,
    LeaseLost,
    MachineError,
    NotFound,
    OutOfMemory,
    Paused,
    StoreError,
)
from cefr_batch.files import out_of_space
from cefr_batch.job.context import StageContext
from cefr_batch.job.evaluator import evaluate_sets
from cefr_batch.job.heartbeat import Heartbeat
from cefr_batch.job.lease import Lease
from cefr_batch.job.log import Console, LogFile, logging_to
from cefr_batch.job.machine import check_machine
from cefr_batch.job.moved import require_not_moved
from cefr_batch.job.notices import Notices
from cefr_batch.job.predecessor import wait_until_stopped
from cefr_batch.job.publish import manifest, results
from cefr_batch.job.rung import RUNG
from cefr_batch.job.signals import StopSignals
from cefr_batch.job.stage_runner import StageRunner, failure, interrupted
from cefr_batch.job.stages import PUBLISH, STAGES, export, run_stage, stages_of
from cefr_batch.job.status_writer import StatusWriter
from cefr_batch.job.store_retry import StoreRetry
from cefr_batch.job.sync import Mirror
from cefr_batch.job.work_folder import work_folder
from cefr_batch.models.resolve import architecture
from cefr_batch.records import layout
from cefr_batch.records.document import dump, read_file, write_file
from cefr_batch.records.exports import ExportResult
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.manifest import Manifest
from cefr_batch.records.rung import Pause, RungRecord
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.stages import StageRecord
from cefr_batch.records.status import Progress, Status
from cefr_batch.records.timestamps import age_seconds
from cefr_batch.runner.submission import read_submission
from cefr_batch.store.adapters import fetch_adapter
from cefr_batch.store.base import Store
from cefr_batch.store.datasets import fetch_dataset
from cefr_batch.training.process import disk_full

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 2.0
RECENT_SECONDS = 86400.0


def run_job(store: Store, run: str, work_root: Path, gpus: int = 0) -> None:
    """Do everything that is left of a run, in this process and its children: first to complete it, then the evaluations
    on other sets that were asked for. ``gpus``: how many the site promised.

    Blocks until that is done, or until training has come to the step after which ``pause.json`` wants it to stop.
    Idempotent: a complete run is left alone. Raises ``Interrupted`` after SIGTERM, SIGUSR2, SIGHUP or Ctrl-C (a checkpoint
    is stored), ``JobFailed`` or another ``CefrBatchError`` when a stage fails. However it ends, the store says so.
    """
    with logging_to(Console(), alone=True):  # a command's own handler would print warnings twice
        if attempt := StoreRetry().fetch(lambda: _begin(store, run, work_root, gpus)):
            try:
                attempt.run()
            except Paused:
                return  # which ends the job well: no scheduler starts it again
        evaluate_sets(store, run, work_root, gpus)


def _begin(store: Store, run: str, work_root: Path, gpus: int) -> Supervisor | None:
    """A new attempt; None if the run is complete. Can be repeated where the store fails: the newest attempt counts."""
    if store.exists(layout.run_key(run, layout.MANIFEST)):
        log.info("%s is complete already", run)
        _tell_if_recent(store, run)
        return None
    require_not_moved(store, run)
    submission = read_submission(store, run)
    if submission and submission.cancelled_at:  # while it waited, or was preempted: the scheduler does not know
        raise Interrupted(f"{run} was cancelled; `cefr-batch resume {run}` resumes it")
    wait_until_stopped(store, run)
    return Supervisor(store, run, work_root, gpus)


class Supervisor:
    """One attempt at a run. Takes the run's lease when it is made."""

    def __init__(self, store: Store, run: str, work_root: Path, gpus: int) -> None:
        self._record = _read_record(store, run)
        self._spec = recorded_spec(self._record.spec, store.locate(layout.run_key(run, layout.SPEC)))
        self._store, self._run, self._gpus = store, run, gpus
        self._work = WorkDir.of(work_root, store.url, run)
        self._before = _last_status(store, run)
        self._pause = _read_pause(store, run)
        self._lease = Lease.take(store, run)
        self._mirror = Mirror(store, run, self._work, self._spec.training.keep_checkpoints)
        self._status = StatusWriter(
            store, run, self._lease.attempt, self._work, stage=STAGES[0].name, done=self._finished, before=self._before
        )
        self._stages = StageRunner(self._work, gpus)
        self._signals = StopSignals(self._stages.terminate)
        stores = f"`cefr-batch resume {run}` stores it if the new job has this folder, else repeats what was not stored"
        self._retry = StoreRetry(self._work.root, lambda: self._signals.requested, stores)
        self._storing = threading.Lock()  # the mirror serves one caller at a time
        self._notices = Notices(store, run, self._spec.notify)

    def run(self) -> None:
        """See ``run_job``."""
        with self._folder(), logging_to(LogFile(self._work.path(layout.log_name(self._lease.attempt)))), self._signals:
            log.info("cefr-batch: run %s, attempt %d, pid %d", self._run, self._lease.attempt, os.getpid())
            try:
                # Before anything of our own is on its way: what a killed attempt left unfinished.
                self._retry.fetch(lambda: self._store.discard_unfinished(layout.run_key(self._run) + "/"))
                with Heartbeat(self._say_running, HEARTBEAT_SECONDS):  # a slow upload must not keep the status from it
                    with Heartbeat(self._push, HEARTBEAT_SECONDS):
                        self._compute()
                    found = self._store_all()
                self._publish(found)
            except Paused as exc:
                self._end("PREEMPTED", str(exc), paused=True)
                raise
            except CefrBatchError as exc:
                self._end("PREEMPTED" if isinstance(exc, Interrupted) else "FAILED", str(exc))
                raise
            except Exception as exc:
                if out_of_space(exc):
                    failed = JobFailed(disk_full(self._work))
                    self._end("FAILED", str(failed))
                    raise failed from exc
                self._end("FAILED", f"internal error: {type(exc).__name__}: {exc}")
                raise

    @contextmanager
    def _folder(self) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                stack.enter_context(work_folder(self._work, self._run, self._record))
            except MachineError as exc:
                with suppress(StoreError):
                    self._status.write("FAILED", str(exc))
                self._notices.ended("FAILED", self._lease.attempt, str(exc))
                raise
            yield

    # Computing.

    def _compute(self) -> None:
        """Run the stages that no earlier attempt finished."""
        self._retry.fetch(self._fetch)
        if not self._is_finished("data"):
            run_stage(StageContext(self._work), "data")
        if not self._is_finished("train"):
            check_machine(self._spec, architecture(self._spec.model), self._work.root, self._gpus)
        if self._pause and not self._is_finished("train"):
            self._train_until_paused()
        for process in dict.fromkeys(stage.process for stage in stages_of(self._spec) if stage.process != "job"):
            self._run_process(process)
        self._status.stage = PUBLISH

    def _fetch(self) -> None:
        """Bring what earlier attempts stored, and what was submitted. Idempotent."""
        self._say_running()
        self._work.path(layout.PAUSE).unlink(missing_ok=True)  # of an attempt that was killed here
        if self._pause:
            write_file(self._work.path(layout.PAUSE), self._pause)
        with self._storing:
            self._mirror.pull_stages()
            if not self._is_finished("train"):
                self._mirror.pull_checkpoints()
        self._record_start()
        if not self._is_finished("train") and self._record.adapter and not self._work.checkpoints():
            fetch_adapter(self._store, self._record.adapter, self._work)
        fetch_dataset(self._store, self._record.dataset, self._work.dataset)

    def _train_until_paused(self) -> None:
        """Train before anything else, and raise ``Paused`` once the model is evaluated where that stopped; return where
        training ended before."""
        try:
            self._run_process("train")
        except Paused:
            trained = read_file(Progress, self._work.progress)
            self._run_child([RUNG])
            name = layout.rung_name(self._work.checkpoints()[-1])
            self._store.put_record(self._mirror.key(name), read_file(RungRecord, self._work.path(name)))
            write_file(self._work.progress, trained)  # the status names the step of training again
            self._status.stage = trained.stage
            raise

    def _run_process(self, process: str) -> None:
        """Run what is left of the stages of one process. Exporting never fails a run, whose model is complete without it."""
        stages = [stage.name for stage in stages_of(self._spec) if stage.process == process]
        while left := [name for name in stages if not self._is_finished(name)]:
            try:
                self._run_child(left)
            except OutOfMemory as exc:
                log.warning("cefr-batch: %s", exc)
            except JobFailed as exc:
                if process != "export":
                    raise
                self._do_without_export(exc)

    def _finished(self) -> list[str]:
        return [stage.name for stage in STAGES if self._is_finished(stage.name)]

    def _is_finished(self, stage: str) -> bool:
        return self._work.path(layout.stage_name(stage)).is_file()

    def _record_start(self) -> None:
        """Where this attempt begins, and what the one before had computed that no checkpoint holds."""
        step = max(self._work.checkpoints(), default=0)
        last = self._before
        reached = (last.step or 0) if last and last.stage == "train" else 0
        repeated = 0 if self._is_finished("train") else max(0, reached - step)
        failure = last.message if last and last.state == "FAILED" else ""
        if step and not self._is_finished("train"):
            log.info("cefr-batch: training resumes after step %d (%d steps are computed again)", step, repeated)
        self._lease.record_start(
            finished_stages=len(self._finished()), first_step=step, repeated_steps=repeated, failure=failure
        )

    def _run_child(self, stages: list[str]) -> None:
        self._check_stopping()
        self._status.stage = stages[0]
        if code := self._stages.run(stages):
            raise self._failure(code)

    def _do_without_export(self, failed: JobFailed) -> None:
        """Record why the stage's process ended, so that it is not tried again."""
        log.warning("warning: %s", export.failure(str(failed), self._run, "gguf"))
        shutil.rmtree(self._work.path(layout.EXPORTS), ignore_errors=True)
        result = export.given_up(self._spec, str(failed))
        record = StageRecord[ExportResult](stage="export", seconds=0.0, result=result)
        write_file(self._work.path(layout.stage_name(record.stage)), record)

    def _failure(self, code: int) -> CefrBatchError:
        if self._lease.lost:
            return LeaseLost(f"stopped: a newer attempt of {self._run} has taken over; there is nothing to do")
        stopped = interrupted(self._work, self._status.stage)
        if self._signals.requested:
            return stopped
        return failure(self._work, self._status.stage, code) or stopped

    def _check_stopping(self) -> None:
        if self._signals.requested:
            raise interrupted(self._work, self._status.stage)

    # Storing.

    def _say_running(self) -> None:
        self._check_lease()
        self._status.write("RUNNING", stopping=self._signals.requested)

    def _push(self) -> None:
        with self._storing:
            self._check_lease()
            self._mirror.push()

    def _check_lease(self) -> None:
        try:
            self._lease.check()
        except LeaseLost:
            self._stages.terminate()
            raise

    def _end(self, state: Literal["PREEMPTED", "FAILED"], message: str, *, paused: bool = False) -> None:
        """Store everything there is, then say how it ended. A store that fails here must not hide the first failure."""
        said = "STOPPED" if state == "PREEMPTED" else state  # preempted or cancelled: status knows
        if paused:
            log.info("cefr-batch: PAUSED: %s", message)
        else:
            log.error("cefr-batch: %s: %s", said, message)
        if self._lease.lost:
            return

        def store_the_end() -> None:
            with Heartbeat(self._say_running, HEARTBEAT_SECONDS):  # the next attempt may wait for the end of this one
                self._mirror.push(last=True)
            if not self._lease.lost:
                self._status.write(state, message, paused=paused)

        try:
            self._retry(store_the_end)
        except CefrBatchError as exc:
            log.error("cefr-batch: not everything could be stored: %s", exc)
        if not (self._lease.lost or paused):
            self._notices.ended(state, self._lease.attempt, message)

    def _store_all(self) -> Manifest:
        """Store what is left and the results; return what manifest.json is to list."""
        self._retry(self._store_results)
        return self._retry(lambda: manifest(self._mirror))

    def _publish(self, found: Manifest) -> None:
        """Store manifest.json, last: nothing is written after it."""
        self._retry(lambda: self._complete(found))
        self._notices.completed()
        with suppress(StoreError):  # of attempts that were superseded, or of transfers that failed
            self._store.discard_unfinished(layout.run_key(self._run) + "/")
        shutil.rmtree(self._work.root, ignore_errors=True)

    def _store_results(self) -> None:
        self._check_stopping()
        self._check_lease()
        self._mirror.push()
        found = results(self._work, self._run, self._spec, self._mirror.attempts())
        for name, record in found.documents.items():
            self._store.put_record(self._mirror.key(name), record)
        for name, text in found.cards(self._spec).items():
            self._store.put(self._mirror.key(name), text.encode())
        self._status.write("RUNNING")
        self._mirror.push_growing(last=True)

    def _complete(self, found: Manifest) -> None:
        """Write manifest.json, unless another attempt did: it lists what that one stored."""
        self._check_lease()  # again: to hash what is stored may have taken long
        key = self._mirror.key(layout.MANIFEST)
        try:
            self._store.put_record(key, found, if_absent=True)
        except AlreadyExists as exc:
            if not self._is_stored(key, found):
                self._lease.lost = True
                raise LeaseLost(
                    f"another attempt of {self._run} completed it, so this one stops and writes nothing more; there is "
                    "nothing to do"
                ) from exc

    def _is_stored(self, key: str, found: Manifest) -> bool:
        """Whether the manifest there is ours: then it was written, and only the store's answer was lost."""
        return self._store.get(key) == dump(found)


def _tell_if_recent(store: Store, run: str) -> None:
    """Tell that a run is complete if the job that completed it was killed before it could."""
    with suppress(CefrBatchError):
        manifest = store.get_record(layout.run_key(run, layout.MANIFEST), Manifest)
        if age_seconds(manifest.complete_at) < RECENT_SECONDS:
            record = _read_record(store, run)
            spec = recorded_spec(record.spec, store.locate(layout.run_key(run, layout.SPEC)))
            Notices(store, run, spec.notify).completed()


def _read_record(store: Store, run: str) -> SpecRecord:
    try:
        return store.get_record(layout.run_key(run, layout.SPEC), SpecRecord)
    except NotFound as exc:
        raise NotFound(f"no run {run!r} in {store.url}") from exc


def _read_pause(store: Store, run: str) -> Pause | None:
    with suppress(NotFound):
        return store.get_record(layout.run_key(run, layout.PAUSE), Pause)
    return None


def _last_status(store: Store, run: str) -> Status | None:
    """What the attempt before said last."""
    with suppress(Damaged, NotFound):
        return store.get_record(layout.run_key(run, layout.STATUS), Status)
    return None
