"""Run the cases one after the other, each through the code that users' jobs go through; one that fails says why."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cefr_batch.bench import machine, profiled
from cefr_batch.bench.cases import COMMON, SMALL, TINY, BenchCase
from cefr_batch.bench.figures import CaseFigures, Outcome, batch_too_large, figures
from cefr_batch.bench.machine import BenchMachine
from cefr_batch.bench.profiled import PROFILE, StepProfile
from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import RunSpec
from cefr_batch.data import load_dataset
from cefr_batch.errors import CefrBatchError, JobFailed, MachineError, OutOfMemory, Problem
from cefr_batch.files import read_json, sha256_file, write_bytes
from cefr_batch.job.environment import stage_environment
from cefr_batch.job.stage_runner import failure
from cefr_batch.models.resolve import SMOLLM2, packaged_smollm2
from cefr_batch.records import layout
from cefr_batch.records.document import read_file, write_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.metrics import Metrics
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.stages import StageRecord, TrainResult
from cefr_batch.records.timestamps import now
from cefr_batch.runner import RunState, Session, State
from cefr_batch.runner.prepare import prepare
from cefr_batch.schedulers import get_scheduler
from cefr_batch.store import Store

log = logging.getLogger(__name__)

LIMIT_SECONDS = 570.0  # of all cases together: what is to be removed then takes a moment, too
LEVEL = "B1"
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class CaseResult:
    """A case: its figures, and what went wrong. ``ran``: False where it was left out."""

    name: str
    seconds: float
    ran: bool
    problem: str
    figures: CaseFigures | None

    @property
    def failed(self) -> bool:
        """Whether it was begun and did not end as it should."""
        return self.ran and bool(self.problem)


@dataclass(frozen=True)
class BenchReport:
    """All that was measured, on one machine."""

    machine: BenchMachine
    measured_at: str
    seconds: float
    cases: list[CaseResult]


def run_bench(
    cases: Sequence[BenchCase], folder: Path, *, gpu: bool, on_case: Callable[[BenchReport], None]
) -> BenchReport:
    """Measure the machine, then each case, after which ``on_case`` gets what is known so far. Blocks for at most about ten
    minutes.

    ``folder``: gets the logs of the cases; all else that is written there is removed. ``gpu``: False for what a CPU can
    show, with a tiny model. Raises ``MachineError`` where torch cannot use a GPU and one was asked for.
    """
    started, results = time.monotonic(), list[CaseResult]()
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)  # of a bench that was killed
    with _environment(scratch, gpu):
        try:
            bench = _Bench(folder, _prepared(scratch, gpu), started + LIMIT_SECONDS)
            for case in cases:
                results.append(bench.run(case))
                report = BenchReport(bench.machine, now(), time.monotonic() - started, list(results))
                on_case(report)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return report


@contextmanager
def _environment(scratch: Path, gpu: bool) -> Iterator[None]:
    """What the processes of all cases inherit: they work in ``scratch``, ask no hub, and see no GPU that is not wanted."""
    wanted = {"CEFR_BATCH_WORK": str(scratch / "work"), "HF_HUB_OFFLINE": "1"}
    wanted |= {} if gpu else {"CUDA_VISIBLE_DEVICES": ""}
    before = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _prepared(scratch: Path, gpu: bool) -> BenchMachine:
    """The machine; the models with random weights are in ``scratch``."""
    shapes = ["llama-1b", *([] if packaged_smollm2() else ["llama-135m"])] if gpu else ["tiny"]
    words = [sys.executable, "-m", machine.__name__, "gpu" if gpu else "cpu", str(scratch), *shapes]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise MachineError([Problem("", said[-1])])
    return BenchMachine(**json.loads(done.stdout.splitlines()[-1]))


class _Bench:
    """``deadline``: in seconds of the monotonic clock, when no case begins and none goes on."""

    def __init__(self, folder: Path, machine: BenchMachine, deadline: float) -> None:
        self.machine = machine
        self._logs, self._scratch, self._deadline = folder / "logs", folder / "scratch", deadline
        self._outcomes: dict[str, Outcome] = {}

    def run(self, case: BenchCase) -> CaseResult:
        """Measure one case, and remove what it wrote."""
        if why := self._left_out(case):
            return CaseResult(case.name, 0.0, False, why, None)
        started, problem, found = time.monotonic(), "", None
        try:
            spec = self._spec(case)
            outcome = self._trained(case, spec) if case.way == "training" else self._job(case, spec)
            self._outcomes[case.name] = outcome
            other = self._outcomes.get(case.same_as)
            found = figures(spec, self.machine, outcome, (case.same_as, other) if other else None)
            problem = _unexpected(case, found)
        except CefrBatchError as exc:
            problem = str(exc)
        except Exception as exc:  # the others go on, whatever a library raised
            log.warning("case %s stopped with a bug or an error of a library", case.name, exc_info=exc)
            problem = f"{type(exc).__name__}: {exc}"
        finally:
            for name in ("work", "store"):
                shutil.rmtree(self._scratch / name, ignore_errors=True)
        return CaseResult(case.name, time.monotonic() - started, True, problem, found)

    def _left_out(self, case: BenchCase) -> str:
        if time.monotonic() > self._deadline:
            return f"left out: the {LIMIT_SECONDS:.0f} seconds for all cases were over"
        gpus = self.machine.gpus
        met = {
            "": True,
            "a GPU": gpus > 0,
            "two GPUs": gpus > 1,
            "Unsloth on a GPU": gpus > 0 and find_spec("unsloth") is not None,
        }
        return "" if met[case.needs] else f"left out: it needs {case.needs}"

    def _spec(self, case: BenchCase) -> RunSpec:
        small = SMOLLM2 if packaged_smollm2() else self._scratch / "llama-135m"
        model = small if case.model == SMALL else self._scratch / "llama-1b"
        if not self.machine.gpus:
            model = self._scratch / "tiny"
        settings = [f"model.name={model}", f"model.alias={case.model}", *COMMON, *case.settings]
        spec = load_spec(LEVEL, overrides=settings if self.machine.gpus else [*settings, *TINY])
        if not case.too_large:
            return spec
        rows = batch_too_large(spec, self.machine)
        return load_spec(LEVEL, overrides=[*settings, f"training.batch_size={rows}"])

    def _trained(self, case: BenchCase, spec: RunSpec) -> Outcome:
        """The training stage alone, in the folder that a job gives it, again with smaller batches where memory runs out."""
        work = _stage_folder(WorkDir(self._scratch / "work" / case.name), spec)
        words = [sys.executable, "-m", profiled.__name__, str(work.root), str(os.getpid())]
        environment = stage_environment(work, 0)
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{case.name}.log").open("wb") as output:
            while code := self._process(words, output.fileno(), environment):
                error = failure(work, "train", code) or JobFailed("the training stage was told to stop")
                if not isinstance(error, OutOfMemory):
                    raise error
                work.error.unlink()
        result = read_file(StageRecord[TrainResult], work.path(layout.stage_name("train"))).result
        profile = work.root / PROFILE
        return Outcome(
            train=result,
            adapter_sha256=sha256_file(work.path(layout.ADAPTER_WEIGHTS)),
            tensorboard=work.path(layout.TENSORBOARD),
            profile=StepProfile(**read_json(profile)) if profile.is_file() else None,
        )

    def _process(self, words: Sequence[str], output: int, environment: dict[str, str]) -> int:
        left = max(self._deadline - time.monotonic(), 0.0)
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=left,
            )
        except subprocess.TimeoutExpired as exc:
            raise _too_late() from exc
        return done.returncode

    def _job(self, case: BenchCase, spec: RunSpec) -> Outcome:
        """A whole run, submitted as a user does."""
        session = Session(str(self._scratch / "store"))
        (run,) = session.launch(prepare([spec], scheduler=get_scheduler("local"), store=session.store)).runs
        try:
            if case.way == "killed":
                work = WorkDir.of(layout.default_work_root(), session.store.url, run)
                self._wait(session, run, lambda: bool(work.checkpoints()))
                _kill(session, run)
                self._wait(session, run)
                session.resume([run])  # refused if it was faster, and is complete
            state = self._wait(session, run)
        except BaseException:
            _kill(session, run)
            raise
        finally:
            write_bytes(self._logs / f"{case.name}.log", session.logs(run).encode())
        if state.state is not State.SUCCEEDED:
            raise JobFailed(state.reason)
        return _outcome(session.store, run, self._scratch / "store")

    def _wait(self, session: Session, run: str, done: Callable[[], bool] = lambda: False) -> RunState:
        """Until it has ended, or is ``done``."""
        while True:
            (state,) = session.status([run])
            if state.settled or done():
                return state
            if time.monotonic() > self._deadline:
                raise _too_late()
            time.sleep(_POLL_SECONDS)


def _kill(session: Session, run: str) -> None:
    """SIGKILL for a local run's job, if it still runs; its stage dies with it."""
    (state,) = session.status([run])
    if not state.settled and state.handle:
        with suppress(ProcessLookupError):
            os.kill(int(state.handle.rpartition("/")[2]), signal.SIGKILL)


def _too_late() -> CefrBatchError:
    return CefrBatchError(f"stopped: the {LIMIT_SECONDS:.0f} seconds for all cases were over")


def _stage_folder(work: WorkDir, spec: RunSpec) -> WorkDir:
    """A run's folder as its training stage finds it."""
    data = load_dataset(spec.data, spec.level)
    work.tmp.mkdir(parents=True)
    write_bytes(work.dataset / layout.TRAIN_FILE, data.train_bytes)
    write_bytes(work.dataset / layout.EVAL_FILE, data.eval_bytes)
    settings = spec.model_dump(mode="json")
    record = SpecRecord(run=work.root.name, dataset=data.sha256, spec=settings, submitted_at=now())
    write_file(work.path(layout.SPEC), record)
    return work


def _outcome(store: Store, run: str, folder: Path) -> Outcome:
    """What a complete run left in its store, which is this folder."""
    record = store.get_record(layout.run_key(run, layout.stage_name("train")), StageRecord[TrainResult])
    metrics = store.get_record(layout.run_key(run, layout.METRICS), Metrics)
    return Outcome(
        train=record.result,
        adapter_sha256=next(one.sha256 for one in record.objects if one.key == layout.ADAPTER_WEIGHTS),
        tensorboard=folder / layout.run_key(run, layout.TENSORBOARD),
        stage_seconds=metrics.stage_seconds,
        repeated_steps=metrics.repeated_steps,
    )


def _unexpected(case: BenchCase, found: CaseFigures) -> str:
    """What a case that ended well did not show."""
    if case.too_large and not found.out_of_memory:
        return f"a batch of {found.batch} should have run out of memory and did not: the planned memory is too high"
    return ""
