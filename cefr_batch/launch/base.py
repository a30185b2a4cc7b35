"""Launchers: where runs' jobs go, and what becomes of them.

``render`` makes a request (pure: no network, no disk, no client library), ``submit`` sends exactly that, ``observe``
says what the scheduler knows. What the runs themselves say is in the store; ``cefr_batch.launch.state`` joins the two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from cefr_batch.errors import LaunchError


class State(str, Enum):
    """The one state vocabulary. Something that no table lists is UNKNOWN: not finished, not a crash."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PREEMPTED = "PREEMPTED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"

    def __str__(self) -> str:
        return self.value

    @property
    def finished(self) -> bool:
        """Nothing more will happen unless the user resumes the run."""
        return self in (State.PREEMPTED, State.SUCCEEDED, State.FAILED, State.CANCELLED)


@dataclass(frozen=True)
class Job:
    """A submitted job: its run, and the handle that ``submit`` returned."""

    run: str
    handle: str


@dataclass(frozen=True)
class Observation:
    """What a scheduler says of a job: our word for it, a reason in one sentence (may be empty), and its own words, to
    stand beside what the job says of its end. ``forgotten``: it was asked, and has no such job (UNKNOWN then)."""

    state: State
    reason: str = ""
    detail: str = ""
    forgotten: bool = False


@dataclass(frozen=True)
class JobOrder:
    """What a job needs to know: everything else it reads from the store. Never holds a secret."""

    run: str
    store_url: str
    gpus: int = 1

    def command(self, work: str, *, promised_gpus: int = 0) -> tuple[str, ...]:
        """What its job runs, after the program's name. ``promised_gpus``: how many it must find."""
        promise = ("--gpus", str(promised_gpus)) if promised_gpus else ()
        return ("run-job", self.run, "--store", self.store_url, "--work", work, *promise)

    def gpus_at(self, site_gpus: int, setting: str) -> int:
        """How many it gets at a site whose jobs have so many. ``LaunchError``, naming the site's setting, if it wants
        several and the site gives none."""
        if self.gpus > 1 and not site_gpus:
            raise LaunchError(
                f"{self.run} wants {self.gpus} GPUs, but the site asks for none; set {setting} in its file"
            )
        return max(self.gpus, site_gpus) if site_gpus else 0


@dataclass(frozen=True)
class Batch:
    """Jobs that are submitted together, and the place of the report that compares their runs (None: no report)."""

    orders: tuple[JobOrder, ...]
    report_url: str | None = None

    def report_command(self) -> tuple[str, ...]:
        """What the report's job runs, after the program's name."""
        runs = (order.run for order in self.orders)
        return ("report", *runs, "--store", self.orders[0].store_url, "--out", str(self.report_url))


def training_packages(backend: str) -> tuple[str, ...]:
    """What has to be installed where a run with this backend computes."""
    common = ("torch", "transformers", "trl", "peft", "datasets", "safetensors", "tokenizers", "tensorboard")
    return tuple(dict.fromkeys((*common, backend)))


@dataclass(frozen=True)
class Check:
    """One thing that was looked at before submitting: a few words for a checklist, and one sentence if it is wrong.

    ``warning``: it may be well; only the user can know.
    """

    what: str
    problem: str = ""
    note: str = ""
    warning: bool = False


R = TypeVar("R")


class Launcher(ABC, Generic[R]):
    """One place where jobs run. ``R`` is its request type: printable, exactly what is sent."""

    scheme: str  # of its handles, as in local://host/pid
    reports: bool = False  # whether it can run a report after the jobs of a batch
    requeues: bool = False  # whether a job that stopped after a checkpoint may start again by itself
    retries: bool = False  # whether one that failed may

    @property
    def gpu(self) -> str | None:
        """The card that its jobs get, where that is known."""
        return None

    @property
    def price_per_hour(self) -> float | None:
        """Of one such GPU, where that is known."""
        return None

    @property
    def name(self) -> str:
        """As ``get_launcher`` takes it."""
        return self.scheme

    @abstractmethod
    def render(self, batch: Batch) -> R:
        """The request for these jobs. Pure."""

    @abstractmethod
    def describe(self, request: R) -> str:
        """The request as text: what ``--dry-run`` prints."""

    @abstractmethod
    def backends(self) -> Sequence[str]:
        """The training backends that a job has here, the preferred one first."""

    @abstractmethod
    def check(self, backends: Iterable[str], store_url: str) -> list[Check]:
        """Whether jobs with these training backends and this store can run here, one thing after the other."""

    @abstractmethod
    def submit(self, request: R) -> list[str]:
        """Start the jobs and return their handles, in the order of the batch; the report's, if any, comes last.

        ``LaunchError`` if one cannot be started; then none runs.
        """

    @abstractmethod
    def observe(self, jobs: Sequence[Job]) -> dict[Job, Observation]:
        """What becomes of each of these jobs, in as few calls as the scheduler allows.

        PENDING or RUNNING while it lives; anything finished once it is gone, SUCCEEDED only if the scheduler says so;
        UNKNOWN for a job that cannot be judged from here.
        """

    @abstractmethod
    def cancel(self, jobs: Sequence[Job]) -> None:
        """Ask the jobs to stop after a checkpoint. Does not wait; no error for one that has ended. ``LaunchError`` if
        they cannot be asked."""

    def last_output(self, job: Job, store_url: str) -> str:
        """The end of what the job printed, where the scheduler keeps it here; else empty."""
        return ""
