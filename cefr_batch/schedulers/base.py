"""The interface of schedulers: where runs' jobs are submitted to, and what is known of them afterwards.

``render`` makes a request (pure: no network, no disk, no client library), ``submit`` sends exactly that, ``observe``
says what the scheduler knows. What the runs say of themselves is in the store; ``cefr_batch.runner.status`` joins the
two.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Generic, TypeVar

from cefr_batch.errors import Problem, SchedulerError

if TYPE_CHECKING:
    from cefr_batch.config.schema import NotifySpec

QUEUED_SECONDS = 7 * 86400  # for how long a report waits for the first job of a run to start, or for the next one


class State(str, Enum):
    """The states of a job, the same for every scheduler.

    Each scheduler has one table from its own states to these. A state that its table does not list is UNKNOWN, which
    counts as not finished.
    """

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PREEMPTED = "PREEMPTED"
    PAUSED = "PAUSED"  # of a run whose training was to stop after a step, and did; no scheduler says so
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"

    def __str__(self) -> str:
        return self.value

    @property
    def finished(self) -> bool:
        """Whether the job has ended: it changes no more unless the user resumes the run."""
        return self in (State.PREEMPTED, State.PAUSED, State.SUCCEEDED, State.FAILED, State.CANCELLED)


@dataclass(frozen=True)
class Job:
    """A submitted job: the name of its run, and the handle that ``submit`` returned (``slurm://cluster/7_0``)."""

    run: str
    handle: str


@dataclass(frozen=True)
class Observation:
    """What a scheduler says of a job.

    ``reason``: why it is in this state, one sentence, may be empty; ``detail``: the scheduler's own words, shown beside
    what the job itself reports; ``not_found``: the scheduler answered that it has no such job (``state`` is UNKNOWN then).
    """

    state: State
    reason: str = ""
    detail: str = ""
    not_found: bool = False

    @property
    def answered(self) -> bool:
        """Whether the scheduler could be asked, and said something of the job."""
        return self.not_found or self.state is not State.UNKNOWN


@dataclass(frozen=True)
class JobSpec:
    """A job to submit. It reads everything else from the store. Never holds a secret.

    ``settings``: those of the run (``RunSpec``) as JSON, where the store does not have them yet: then the job itself
    claims the run.
    """

    run: str
    store_url: str
    gpus: int = 1
    settings: str = ""

    def command(self, work: str, *, promised_gpus: int = 0) -> tuple[str, ...]:
        """The arguments of the program ``cefr-batch`` that carry out the run in the folder ``work``.

        ``promised_gpus``: the job fails at once unless it finds so many GPUs; 0: it does not look.
        """
        return JobSpec.shared_command([self], work, promised_gpus=promised_gpus)

    @staticmethod
    def shared_command(specs: Sequence[JobSpec], work: str, *, promised_gpus: int = 0) -> tuple[str, ...]:
        """As ``command``, for jobs that are told apart by their index alone (``JOB_COMPLETION_INDEX``)."""
        promise = ("--gpus", str(promised_gpus)) if promised_gpus else ()
        settings = (word for spec in specs if spec.settings for word in ("--settings", spec.settings))
        runs = (spec.run for spec in specs)
        return ("run-job", *runs, "--store", specs[0].store_url, "--work", work, *promise, *settings)

    def gpus_at(self, site_gpus: int, setting: str) -> int:
        """The number of GPUs to request at a site whose jobs have ``site_gpus`` by default (0: none).

        ``setting``: the site's key for them. Raises ``SchedulerError`` if the run needs several and the site has none.
        """
        if self.gpus > 1 and not site_gpus:
            raise SchedulerError(
                f"{self.run} needs {self.gpus} GPUs, but the site file requests none; set {setting} there, or choose "
                "another site with --cluster"
            )
        return max(self.gpus, site_gpus) if site_gpus else 0


@dataclass(frozen=True)
class JobGroup:
    """Jobs that are submitted together, at least one, and the URL of the report that compares their runs (None: no
    report)."""

    jobs: tuple[JobSpec, ...]
    report_url: str | None = None

    def report_command(self) -> tuple[str, ...]:
        """The arguments of the program ``cefr-batch`` that write the report."""
        runs = (spec.run for spec in self.jobs)
        return ("report", *runs, "--store", self.jobs[0].store_url, "--out", str(self.report_url))


def missing_trackers(wanted: Iterable[str]) -> Iterator[Problem]:
    """The trackers of ``training.report_to`` that this Python lacks."""
    for name in wanted:
        if find_spec(name) is None:
            what = f"{sys.executable} has no {name}; install it there (pip install {name}), or leave it out"
            yield Problem("training.report_to", what)


def training_packages(backend: str) -> tuple[str, ...]:
    """The Python packages that training with this backend needs, by their import names."""
    common = ("torch", "transformers", "trl", "peft", "datasets", "safetensors", "tokenizers", "tensorboard")
    return tuple(dict.fromkeys((*common, backend)))


def missing_packages(backend: str) -> list[str]:
    """Those of ``training_packages`` that this Python lacks."""
    return [name for name in training_packages(backend) if find_spec(name) is None]


@dataclass(frozen=True)
class Check:
    """One thing that was checked before submitting.

    ``what``: a few words for a checklist; ``problem``: what is wrong and what to do, empty if all is well; ``note``: what
    was found, for the checklist; ``warning``: the problem may be none, so it does not keep the jobs from being submitted;
    ``opinion``: it follows from what the cluster shows, and the cluster itself may think otherwise, so ``--force`` overrides
    it.
    """

    what: str
    problem: str = ""
    note: str = ""
    warning: bool = False
    opinion: bool = False

    @property
    def refuses(self) -> bool:
        """Whether it keeps jobs from being submitted, unless it is overridden."""
        return bool(self.problem) and not self.warning


R = TypeVar("R")


class Scheduler(ABC, Generic[R]):
    """A cluster, or this machine, that runs jobs.

    ``R`` is the type of its requests: immutable, printable with ``describe``, and exactly what ``submit`` sends.
    Constructing a scheduler reads no file and loads no client library; methods raise ``SpecError`` if a site file that
    they need cannot be used. An object may remember answers for some seconds: whoever polls keeps the object.
    """

    scheme: str  # of its handles, as in local://host/pid
    by_hand: str = "`ps`, `kill PID`"  # how a user sees and stops its jobs without this program
    reports: bool = False  # whether it can write a report after the jobs of a group
    requeues: bool = False  # whether it may start a job again that stopped after a checkpoint
    retries: bool = False  # whether it may start a job again that failed
    sees_files: bool = True  # whether its jobs may find files of this machine under the same paths

    @property
    def adds_packages(self) -> bool:
        """Whether its jobs may have Python packages that their environment or image does not come with."""
        return True

    @property
    def gpu(self) -> str | None:
        """The type of GPU that its jobs get; None if it is not known."""
        return None

    @property
    def price_per_hour(self) -> float | None:
        """What an hour of one such GPU costs, in the user's currency; None if it is not known."""
        return None

    @property
    def notify(self) -> NotifySpec | None:
        """The messages about runs that have no such setting of their own."""
        return None

    def lacks_variable(self, name: str) -> str:
        """Why a job that is submitted now would not have this environment variable, a secret; empty if it would."""
        return "" if os.environ.get(name) else f"the environment variable {name} is not set; export it and submit again"

    @property
    def name(self) -> str:
        """The name by which ``get_scheduler`` finds it again."""
        return self.scheme

    @abstractmethod
    def render(self, group: JobGroup) -> R:
        """The request for these jobs. Pure: touches no network and no client library, and writes nothing.

        Raises ``SchedulerError`` if the site cannot run them.
        """

    @abstractmethod
    def describe(self, request: R) -> str:
        """The request as text: what ``--dry-run`` prints. Pure."""

    @abstractmethod
    def backends(self) -> Sequence[str]:
        """The training backends that its jobs can use, the preferred one first."""

    def require_settings(self) -> None:
        """Raise ``SpecError`` with every problem of its site file, if it has one. The checks below do not tell these: they
        say what is wrong besides, as far as the file can be read."""

    def check_settings(self, backends: Iterable[str]) -> list[Check]:
        """What the site's settings alone show to be wrong for jobs with these training backends; part of ``check``. Pure."""
        return []

    @abstractmethod
    def check(self, backends: Iterable[str], store_url: str) -> list[Check]:
        """Whether jobs with these training backends and this store can run here, every problem at once.

        Leaves nothing behind. May block for a minute where a controller is slow; one that does not answer is a problem
        in the list, not an error.
        """

    @abstractmethod
    def submit(self, request: R) -> list[str]:
        """Submit the jobs and return their handles, in the order of the group; the report's, if any, comes last.

        Blocks until the scheduler has accepted them, not until they start. Not idempotent unless a scheduler says so.
        Raises ``SchedulerError`` if one is not accepted; those accepted before are then cancelled. A report that is not
        accepted is a logged warning.
        """

    @abstractmethod
    def observe(self, jobs: Sequence[Job]) -> dict[Job, Observation]:
        """The state of each of these jobs, in as few calls as the scheduler allows. Read-only.

        PENDING or RUNNING until a job has ended, then a finished state; SUCCEEDED only if the scheduler says so; UNKNOWN
        for a job that cannot be judged from this machine. Raises ``SchedulerError`` if the scheduler does not answer.
        """

    @abstractmethod
    def cancel(self, jobs: Sequence[Job], store_url: str) -> None:
        """Ask the jobs to stop after a checkpoint. Does not wait until they have; idempotent, and no error for a job that
        has ended.

        ``store_url``: the store of their runs. Handles are not trusted: a store may be edited, and a scheduler gives ids
        again. Raises ``SchedulerError`` if one cannot be asked, such as a job of another machine, or if a handle names a
        job that is not this run's; then none of that scheduler's jobs is asked.
        """

    def release(self, jobs: Sequence[Job], store_url: str) -> None:
        """Remove what keeps these jobs from being started again although a machine of theirs is gone. For a user who said
        that they do not run. Raises ``SchedulerError`` if it cannot be removed, or is not these runs'."""

    def last_words(self, job: Job, store_url: str) -> str:
        """Why a job that has ended did not run, or does not run again, if it printed that where this machine can read it and
        the store does not tell; else empty."""
        return ""

    def tail_log(self, job: Job, store_url: str) -> str:
        """The last lines that the job printed, if the scheduler keeps them where this machine can read them; else empty.

        ``store_url``: the store of the job's run.
        """
        return ""
