"""Launchers: where a run's job goes, and what becomes of it.

``render`` makes a request (pure: no network, no disk, no client library), ``submit`` sends exactly that, ``observe``
says what the scheduler knows. What the run itself says is in the store; ``cefr_batch.launch.state`` joins the two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar


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
    """What a scheduler says of a job: our word for it, and a reason in one sentence (may be empty)."""

    state: State
    reason: str = ""


@dataclass(frozen=True)
class JobOrder:
    """What a job needs to know: everything else it reads from the store. Never holds a secret."""

    run: str
    store_url: str
    environment: dict[str, str] = field(default_factory=dict)


R = TypeVar("R")


class Launcher(ABC, Generic[R]):
    """One place where jobs run. ``R`` is its request type: printable, exactly what is sent."""

    scheme: str  # of its handles, as in local://host/pid

    @abstractmethod
    def render(self, order: JobOrder) -> R:
        """The request for one run. Pure."""

    @abstractmethod
    def describe(self, request: R) -> str:
        """The request as text: what ``--dry-run`` prints."""

    @abstractmethod
    def backends(self) -> Sequence[str]:
        """The training backends that a job has here, the preferred one first."""

    @abstractmethod
    def check(self, backend: str) -> list[str]:
        """What would keep a job with this training backend from running here, a sentence each; empty: nothing."""

    @abstractmethod
    def submit(self, request: R) -> str:
        """Start the job and return its handle. ``LaunchError`` if it cannot be started; then nothing runs."""

    @abstractmethod
    def observe(self, jobs: Sequence[Job]) -> dict[Job, Observation]:
        """What becomes of each of these jobs, in as few calls as the scheduler allows.

        PENDING or RUNNING while it lives; anything finished once it is gone, SUCCEEDED only if the scheduler says so;
        UNKNOWN for a job that cannot be judged from here.
        """

    @abstractmethod
    def cancel(self, job: Job) -> None:
        """Ask the job to stop. Does not wait; no error if it has ended. ``LaunchError`` if it cannot be asked."""

    def last_output(self, order: JobOrder) -> str:
        """The end of what the run's newest job printed, where the scheduler keeps it here; else empty."""
        return ""
