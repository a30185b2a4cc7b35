"""Studies of trials that train nothing: a scheduler whose jobs write what a job writes, and a store whose user is killed."""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from support.report_stores import A1, metrics
from typing_extensions import override

from cefr_batch.config.load import load_spec
from cefr_batch.data import Dataset, load_dataset, load_validation
from cefr_batch.records import layout
from cefr_batch.records.attempt import Attempt
from cefr_batch.records.document import StoredRecord
from cefr_batch.records.evaluations import SetEvaluation
from cefr_batch.records.losses import Losses
from cefr_batch.records.manifest import Manifest
from cefr_batch.records.rung import Pause, RungRecord
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.status import Status
from cefr_batch.records.study import StudyRecord
from cefr_batch.records.timestamps import now
from cefr_batch.runner.evaluations import open_tasks
from cefr_batch.runner.search import advance
from cefr_batch.runner.search_prepare import PreparedSearch
from cefr_batch.runner.study import StudyState
from cefr_batch.runner.submission import newest_attempt
from cefr_batch.schedulers.base import Job, Observation, State
from cefr_batch.schedulers.local.scheduler import LocalRequest, LocalScheduler
from cefr_batch.store.base import Store
from cefr_batch.store.local import LocalStore

STEPS = [4, 12, 36]
SPACE = ["lora.rank=8,16,32", "training.learning_rate=1e-4..1e-3:log"]
FIXED = ["model.name=tiny", "backend=peft", "data.examples=40", "data.words_per_example=3", "generation.examples=0"]


class Killed(BaseException):
    """The controller's process is gone."""


@dataclass
class Jobs(LocalScheduler):
    """Stands in for a cluster whose jobs train nothing: they write what a job writes. ``at_once`` of them end each time that
    somebody looks, those started last first. ``stops``: how often a run's job is preempted, each time a step further;
    ``dies``: how often it ends without a word; ``fails``: trials whose job says that training diverged."""

    store: Store
    stops: Counter[str] = field(default_factory=Counter)
    dies: Counter[str] = field(default_factory=Counter)
    fails: tuple[int, ...] = ()
    at_once: int = 4
    trained: list[tuple[str, int, int]] = field(default_factory=list)  # run, from step, to step
    waiting: list[str] = field(default_factory=list)

    @override
    def check(self, backends: object, store_url: str) -> list[Any]:
        return []

    @override
    def submit(self, request: tuple[LocalRequest, ...]) -> list[str]:
        runs = [one.work.name for one in request]
        assert not set(runs) & set(self.waiting), "a job that runs already was started again"
        self.waiting += runs
        return [f"local://{socket.gethostname()}/{999_000_000}" for _ in runs]

    @override
    def observe(self, jobs: Sequence[Job]) -> dict[Job, Observation]:
        found = {job: Observation(State.RUNNING if job.run in self.waiting else State.FAILED, "gone") for job in jobs}
        for _ in range(min(self.at_once, len(self.waiting))):
            self.work(self.waiting.pop())
        return found

    def __hash__(self) -> int:
        return id(self)

    def work(self, run: str) -> None:
        """A job from its start to its end."""
        if self.store.exists(layout.run_key(run, layout.MANIFEST)):
            return self.evaluate(run)
        attempt, before = newest_attempt(self.store, run) + 1, self.reached(run)
        began = Attempt(attempt=attempt, host="h", pid=1, started_at=now(), finished_stages=1, first_step=before)
        self.store.put_record(layout.run_key(run, layout.attempt_name(attempt)), began)
        if self.stops[run]:
            self.stops[run] -= 1
            self.trained.append((run, before, before + 1))
            return self.say(run, attempt, "PREEMPTED", "stopped", step=before + 1)
        if self.dies[run]:
            self.dies[run] -= 1
            return self.say(run, attempt, "RUNNING", "")
        if int(run.rpartition("-t")[2]) in self.fails:
            return self.say(run, attempt, "FAILED", "training diverged")
        key = layout.run_key(run, layout.PAUSE)
        pause = self.store.get_record(key, Pause) if self.store.exists(key) else None
        step = pause.after_step if pause else STEPS[-1]
        self.trained.append((run, before, step))
        if pause is None:
            return self.complete(run)
        record = RungRecord(step=step, best_step=step, losses=losses(self.store, run, step), seconds=1.0)
        self.store.put_record(layout.run_key(run, layout.rung_name(step)), record)
        return self.say(run, attempt, "PREEMPTED", "paused", paused=True, step=step)

    def reached(self, run: str) -> int:
        """The step to which a trial was trained."""
        return max((to for name, _, to in self.trained if name == run), default=0)

    def say(self, run: str, attempt: int, state: Any, message: str, *, paused: bool = False, step: int = 1) -> None:
        status = Status(
            run=run,
            attempt=attempt,
            state=state,
            stage="train",
            step=step,
            steps=STEPS[-1],
            stages_done=[],
            updated_at=now(),
            host="h",
            pid=1,
            message=message,
            paused=paused,
        )
        self.store.put_record(layout.run_key(run, layout.STATUS), status)

    def complete(self, run: str) -> None:
        figures = metrics(run, "B1", A1)
        figures["tuned"] = losses(self.store, run, STEPS[-1]).model_dump(mode="json", exclude_none=True)
        self.store.put_json(layout.run_key(run, layout.METRICS), figures)
        self.store.put_record(layout.run_key(run, layout.MANIFEST), Manifest(run=run, complete_at=now(), objects=[]))

    def evaluate(self, run: str) -> None:
        for task in open_tasks(self.store, run):
            done = SetEvaluation(
                run=run,
                task=task,
                losses=losses(self.store, run, STEPS[-1]),
                scores=[],
                seconds=1.0,
                code_version="0",
                complete_at=now(),
            )
            self.store.put_record(layout.run_key(run, layout.evaluation_name(task.name)), done)


def losses(store: Store, run: str, step: int) -> Losses:
    """Of a training that is best at a rate of 3e-4 and a rank of 16."""
    settings: Any = store.get_record(layout.run_key(run, layout.SPEC), SpecRecord).spec
    rate, rank = settings["training"]["learning_rate"], settings["lora"]["rank"]
    loss = 1 + abs(rate - 3e-4) * 1e3 + abs(rank - 16) / 100 + 1 / step
    part = {"loss": loss, "perplexity": 2.0, "tokens": 5}
    return Losses.model_validate({"full": part, "response": part, "seed_protocol": {"loss": loss, "perplexity": 2.0}})


class Mortal(LocalStore):
    """A store whose user is killed after so many writes, before or after the write arrives."""

    left: float = float("inf")
    arrives: bool = True

    def _count(self, write: Callable[[], Any]) -> Any:
        self.left -= 1
        if self.left < 0:
            if self.arrives:
                write()
            raise Killed
        return write()

    @override
    def put_record(self, key: str, record: StoredRecord, *, if_absent: bool = False) -> None:
        self._count(lambda: LocalStore.put_record(self, key, record, if_absent=if_absent))

    @override
    def delete(self, key: str) -> None:
        self._count(lambda: LocalStore.delete(self, key))


def prepared(store: Store, trials: int, jobs: Jobs, seed: int = 7) -> PreparedSearch:
    spec = load_spec("B1", overrides=FIXED)
    data = load_dataset(spec.data, spec.level)
    trial_data = load_validation(spec.data, spec.level, data)
    evaluation = Dataset((), data.eval)
    record = StudyRecord(
        study="",
        level="B1",
        settings=spec.model_dump(mode="json"),
        space=SPACE,
        trials=trials,
        steps=STEPS,
        reduction=3,
        sampler="tpe",
        seed=seed,
        objective="response_loss",
        dataset=trial_data.sha256,
        evaluation_dataset=evaluation.sha256,
        cluster="local",
        code_version="0",
        created_at=now(),
    )
    return PreparedSearch(record, spec.run_family, trial_data, evaluation, jobs)


def finished(store: Store, study: str, jobs: Jobs) -> StudyState:
    return deque(states(store, study, jobs), maxlen=1).pop()


def states(store: Store, study: str, jobs: Jobs) -> Iterator[StudyState]:
    for _ in range(300):
        state = advance(store, study, lambda _: jobs)
        yield state
        if state.ended:
            return
    raise AssertionError("the study never ended")
