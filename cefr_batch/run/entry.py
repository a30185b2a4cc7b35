"""The job: stages in order, resumed where a predecessor stopped, with a heartbeat, everything stored.

Light (no torch): the heavy stages run in child processes, see ``cefr_batch.run.stages``.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from types import FrameType
from typing import IO, Any, TypeVar

from cefr_batch import layout
from cefr_batch.data import fetch_dataset
from cefr_batch.errors import (
    EXIT_INTERRUPTED,
    AlreadyExists,
    CefrBatchError,
    Interrupted,
    JobFailed,
    LeaseLost,
    MachineError,
    NotFound,
    OutOfMemory,
    Problem,
    StoreError,
    Unavailable,
)
from cefr_batch.files import read_json, write_json
from cefr_batch.launch.submission import now, read_submission
from cefr_batch.layout import WorkDir
from cefr_batch.levels import RunSpec
from cefr_batch.pretrained import architecture
from cefr_batch.run.machine import PROMISED_GPUS, check_machine
from cefr_batch.run.publish import manifest, results
from cefr_batch.run.stages import CHILD_GROUPS, STAGES, Context, run_stage
from cefr_batch.run.sync import Background, Mirror
from cefr_batch.spec import recorded_spec
from cefr_batch.store.base import Store

T = TypeVar("T")

HEARTBEAT_SECONDS = 2.0
STORE_DEADLINE_SECONDS = 1800.0  # how long a job that is done tries to store its results,
STOPPING_SECONDS = 60.0  # and one that was asked to stop


def run_job(store: Store, run: str, work_root: Path, gpus: int = 0) -> None:
    """Do everything that is left of a run, in this process and its children. ``gpus``: how many the site promised.

    Blocks until the run is complete. Raises ``Interrupted`` after SIGTERM, SIGUSR2 or Ctrl-C (a checkpoint is stored),
    ``JobFailed`` or another ``CefrBatchError`` when a stage fails. Whatever happens, the store knows.
    """
    if store.exists(layout.run_key(run, layout.MANIFEST)):
        print(f"{run} is complete already")
        return
    submission = read_submission(store, run)
    if submission and submission.cancelled_at:  # while it waited, or as it was preempted: the scheduler does not know
        raise Interrupted(f"{run} was cancelled; `cefr-batch resume {run}` goes on")
    _Job.open(store, run, work_root, gpus).run()


@dataclass
class _Job:
    store: Store
    run_name: str
    work: WorkDir
    spec: RunSpec
    record: Any  # spec.json
    attempt: int
    before: int  # the step of training at which the attempt before was seen last
    mirror: Mirror
    gpus: int
    stage: str = "data"
    done: set[str] = field(default_factory=set)
    child: subprocess.Popen[str] | None = None
    stopping: bool = False
    superseded: bool = False
    patient_since: float | None = None  # when storing the end first failed
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, store: Store, run: str, work_root: Path, gpus: int) -> _Job:
        key = layout.run_key(run, layout.SPEC)
        try:
            record = store.get_json(key)
        except NotFound as exc:
            raise NotFound(f"no run {run!r} in {store.url}") from exc
        spec = recorded_spec(record, store.locate(key))
        work = WorkDir.of(work_root, store.url, run)
        mirror = Mirror(store, run, work, spec.training.keep_checkpoints)
        before = _progress_before(store, run)
        return cls(store, run, work, spec, record, _claim_attempt(store, run), before, mirror, gpus)

    def run(self) -> None:
        with self._alone_here(), self._log(), self._signals():
            print(f"cefr-batch: run {self.run_name}, attempt {self.attempt}, pid {os.getpid()}", flush=True)
            try:
                # before anything of our own is on its way: what a killed attempt left unfinished
                self.store.discard_unfinished(layout.run_key(self.run_name) + "/")
                with Background(self._beat, HEARTBEAT_SECONDS):
                    self._stages()
                self._finish()
            except CefrBatchError as exc:
                self._end("PREEMPTED" if isinstance(exc, Interrupted) else "FAILED", str(exc))
                raise
            except Exception as exc:
                self._end("FAILED", f"internal error: {type(exc).__name__}: {exc}")
                raise

    def _stages(self) -> None:
        self._beat()
        self.done = self.mirror.pull_stages()
        if "train" not in self.done:
            self.mirror.pull_checkpoints()
            self._record_repeated()
        fetch_dataset(self.store, self.record["dataset"], self.work.dataset)
        if "data" not in self.done:
            run_stage(Context(self.work), "data")
            self.done.add("data")
        if "train" not in self.done:
            check_machine(self.spec, architecture(self.spec.model), self.work.root, self.gpus)
        for group in CHILD_GROUPS:
            while pending := [s for s in group if s not in self.done]:
                try:
                    self._run_child(pending)
                except OutOfMemory as exc:
                    print(f"cefr-batch: {exc}", flush=True)
        self.stage = "publish"

    def _record_repeated(self) -> None:
        """What the attempt before had computed, and no checkpoint holds, in this attempt's record."""
        repeated = self.before - max(self.work.checkpoints(), default=0)
        if repeated > 0:
            key = self.mirror.key(layout.attempt_name(self.attempt))
            self.store.put_json(key, {**self.store.get_json(key), "repeated_steps": repeated})

    def _run_child(self, stages: Sequence[str]) -> None:
        self._check_stopping()
        self.stage = stages[0]
        for stale in (self.work.progress, self.work.error):
            stale.unlink(missing_ok=True)
        arguments = [sys.executable, "-m", "cefr_batch.run.stages", str(self.work.root), str(os.getpid()), *stages]
        self.child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **self._environment()},
            start_new_session=True,
        )
        if self.stopping:  # the signal came between the check and the start
            self.child.terminate()
        with self.child as child:
            for line in child.stdout or ():
                print(line, end="", flush=True)
        code = child.returncode
        self.child = None
        self.done |= {s for s in stages if self.work.path(layout.stage_name(s)).is_file()}
        if code != 0:
            raise self._failure(code)

    def _environment(self) -> dict[str, str]:
        """What stages run with. Unsloth compiles into a folder of the run: two runs in one break each other's imports."""
        return {
            "UNSLOTH_COMPILE_LOCATION": str(self.work.tmp / "unsloth_compiled_cache"),
            "TOKENIZERS_PARALLELISM": "false",
            "TQDM_DISABLE": "1",  # progress bars make no sense in a log
            "PYTHONUNBUFFERED": "1",
            PROMISED_GPUS: str(self.gpus),
        }

    def _failure(self, code: int) -> CefrBatchError:
        if self.superseded:
            return LeaseLost(f"stopped: a newer attempt of {self.run_name} has taken over")
        # A scheduler may signal all processes at once, or the stage's alone at first.
        if self.stopping or code in (-signal.SIGTERM, -signal.SIGUSR2, EXIT_INTERRUPTED):
            return self._interrupted()
        if self.work.error.is_file():
            error = read_json(self.work.error)
            text = error["message"]
            if error["kind"] == "bug":
                text = f"stage {self.stage} stopped with {text}; the log has the details"
            return OutOfMemory(text) if error["kind"] == OutOfMemory.__name__ else JobFailed(text)
        if code == -signal.SIGKILL:
            return JobFailed(
                f"stage {self.stage} was killed by the system, most likely for want of memory; "
                "ask for more memory or lower training.batch_size"
            )
        return JobFailed(f"stage {self.stage} ended with exit code {code}; the log has the details")

    def _interrupted(self) -> Interrupted:
        steps = self.work.checkpoints()
        at = f"its last checkpoint is of step {steps[-1]}" if steps else "it had no checkpoint yet"
        return Interrupted(
            f"stopped on request in stage {self.stage}; {at}; `cefr-batch resume {self.run_name}` goes on"
        )

    def _check_stopping(self) -> None:
        if self.stopping:
            raise self._interrupted()

    # Heartbeat and storing.

    def _beat(self) -> None:
        with self.lock:
            self._check_attempt()
            self._write_status("RUNNING", "")
            self.mirror.push()

    def _check_attempt(self) -> None:
        """A job that the scheduler gave up, and that lives all the same, must not write over its successor."""
        if self.store.exists(self.mirror.key(layout.attempt_name(self.attempt + 1))):
            self.superseded = True
            self._stop_child()
            raise LeaseLost(
                f"attempt {self.attempt + 1} of {self.run_name} has started; this one stops and writes no more"
            )

    def _end(self, state: str, message: str) -> None:
        """Store everything there is, then say how it ended. A store that fails here must not hide the first failure."""
        print(f"cefr-batch: {state}: {message}", flush=True)
        if self.superseded:
            return

        def store_the_end() -> None:
            self.mirror.push()
            self._write_status(state, message)

        try:
            self._patiently(store_the_end)
        except CefrBatchError as exc:
            print(f"cefr-batch: and not everything could be stored: {exc}", flush=True)

    def _patiently(self, action: Callable[[], T]) -> T:
        """Repeat ``action`` until the store can be reached; give up at the deadline, saying where everything is."""
        pauses = chain((1, 2, 5, 10), repeat(20))
        while True:
            try:
                return action()
            except LeaseLost:
                raise
            except StoreError as exc:
                self.patient_since = self.patient_since or time.monotonic()
                limit = STOPPING_SECONDS if self.stopping else STORE_DEADLINE_SECONDS
                if not isinstance(exc, Unavailable) or time.monotonic() - self.patient_since > limit:
                    raise StoreError(f"{exc}; what this job computed is in {self.work.root}, resume stores it") from exc
                print(f"cefr-batch: {exc}; trying again, until then everything is in {self.work.root}", flush=True)
                time.sleep(next(pauses))

    def _write_status(self, state: str, message: str) -> None:
        try:
            progress = read_json(self.work.progress)
        except (OSError, ValueError):
            progress = {}
        self.stage = progress.pop("stage", self.stage) if state == "RUNNING" else self.stage
        keys = ("step", "steps", "epoch", "loss", "eval_loss", "eta_seconds")
        status = {
            "run": self.run_name,
            "attempt": self.attempt,
            "state": state,
            "stage": self.stage,
            "stages_done": [s for s in STAGES if self.work.path(layout.stage_name(s)).is_file()],
            **{k: progress.get(k) for k in keys},
            "updated_at": now(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "message": message,
        }
        self.store.put_json(self.mirror.key(layout.STATUS), status)

    def _finish(self) -> None:
        """What is left to store, metrics.json, and manifest.json last: nothing is written after it."""
        self._patiently(self._store_results)
        record = self._patiently(lambda: manifest(self.mirror))
        self._patiently(lambda: self._complete(record))
        shutil.rmtree(self.work.root, ignore_errors=True)

    def _store_results(self) -> None:
        self._check_stopping()
        self._check_attempt()
        self.mirror.push()
        for name, record in results(self.work, self.run_name, self.spec, self.mirror.attempts()).items():
            self.store.put_json(self.mirror.key(name), record)
        self._write_status("RUNNING", "")
        self.mirror.push_growing()

    def _complete(self, record: Any) -> None:
        """Write manifest.json, unless another attempt did: it lists what that one stored."""
        self._check_attempt()  # again: to hash what is stored may have taken long
        key = self.mirror.key(layout.MANIFEST)
        try:
            self.store.put_json(key, record, if_absent=True)
        except AlreadyExists as exc:
            if self.store.get_json(key) != record:  # else it is ours, and the store's answer was lost
                self.superseded = True
                raise LeaseLost(f"another attempt of {self.run_name} completed it; this one writes no more") from exc

    # Signals and the log.

    @contextmanager
    def _alone_here(self) -> Iterator[None]:
        """Wait until an older attempt on this machine has noticed that it is superseded, and left the folder.

        The lock has the machine's name: in a shared folder, one that a dead machine held might never be given back.
        """
        with ExitStack() as stack:
            try:
                self.work.root.parent.mkdir(parents=True, exist_ok=True)
                name = f"{self.run_name}.{platform.node()}.lock"
                lock = stack.enter_context((self.work.root.parent / name).open("w"))
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(lock, fcntl.LOCK_EX)
                _make_folder(self.work, self.record)
            except OSError as exc:
                what = f"cannot be written ({exc.strerror or exc}); name another with --work or CEFR_BATCH_WORK"
                error = MachineError([Problem(f"work folder {self.work.root.parent}", what)])
                with suppress(StoreError):
                    self._write_status("FAILED", str(error))
                raise error from exc
            yield

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM, SIGUSR2 and Ctrl-C all mean: finish the step, store a checkpoint, stop."""
        numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        self._stop_child()

    def _stop_child(self) -> None:
        if self.child is not None:
            self.child.terminate()

    @contextmanager
    def _log(self) -> Iterator[None]:
        """This attempt's log: what this process and its children print goes to the log file and to standard output."""
        path = self.work.path(layout.log_name(self.attempt))
        file, before = path.open("a", encoding="utf-8"), sys.stdout
        sys.stdout = _Tee(before, file)
        try:
            yield
        finally:
            sys.stdout = before
            with suppress(OSError):  # a full disk
                file.close()


def _claim_attempt(store: Store, run: str) -> int:
    """Become the run's newest attempt: the one whose record was written first under the next number."""
    prefix = layout.run_key(run, layout.ATTEMPTS) + "/"
    while True:
        number = 1 + max((int(Path(o.key).stem) for o in store.objects(prefix)), default=0)
        where = {"host": socket.gethostname(), "pid": os.getpid(), "image": os.environ.get("CEFR_BATCH_IMAGE")}
        record = {"attempt": number, **where, "started_at": now()}
        with suppress(AlreadyExists):
            store.put_json(layout.run_key(run, layout.attempt_name(number)), record, if_absent=True)
            return number


def _progress_before(store: Store, run: str) -> int:
    """The step of training at which the run was seen last; 0 if it was not in training."""
    try:
        status = store.get_json(layout.run_key(run, layout.STATUS))
        return int(status["step"] or 0) if status["stage"] == "train" else 0
    except (StoreError, KeyError, TypeError, ValueError):
        return 0


def _make_folder(work: WorkDir, record: Any) -> None:
    """The run's folder; what another run of this name left there (deleted from the store since) is not this one's."""
    local = work.path(layout.SPEC)
    if not local.is_file() or read_json(local) != record:
        shutil.rmtree(work.root, ignore_errors=True)
    for folder in (work.root, work.tmp, work.path(layout.LOGS)):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(local, record)
    for stale in (work.progress, work.error):
        stale.unlink(missing_ok=True)


class _Tee:
    """Writes to several text streams; a closed terminal or a full disk must not hide how the job ends."""

    def __init__(self, terminal: IO[str], file: IO[str]) -> None:
        self._terminal, self._file = terminal, file

    def write(self, text: str) -> int:
        for stream in (self._file, self._terminal):
            with suppress(OSError):
                stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in (self._file, self._terminal):
            with suppress(OSError):
                stream.flush()
