"""What Slurm knows of jobs: accounting and the queue, joined and put into words."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from cefr_batch.errors import SchedulerError
from cefr_batch.schedulers.base import Observation, State
from cefr_batch.schedulers.slurm import client
from cefr_batch.schedulers.slurm.client import JobKey, Record, Slurm, Turn
from cefr_batch.schedulers.slurm.machine import SlurmMachine
from cefr_batch.schedulers.slurm.states import REASONS

_POLL_SECONDS = 10.0  # between two questions about the same jobs: whoever polls must not load the controller


@dataclass
class Controller:
    """A Slurm controller. One that does not answer is asked again after ten seconds, not before."""

    slurm: Slurm
    _settings: dict[str, str] = field(default_factory=dict)
    _failure: SchedulerError | None = None
    _failed_at: float = float("-inf")

    def cluster(self, *, patiently: bool = False) -> str:
        """The name of its cluster, which is asked once. Blocks for some seconds, ``patiently`` for a minute. Raises
        ``SchedulerError`` where there is no Slurm or no answer."""
        if not self._settings:
            if self._failure and time.monotonic() - self._failed_at < _POLL_SECONDS:
                raise self._failure
            try:
                self._settings = self.slurm.configuration(None if patiently else client.QUESTION_SECONDS)
            except SchedulerError as exc:
                self._failure, self._failed_at = exc, time.monotonic()
                raise
        return self._settings["ClusterName"]

    @property
    def shows_all(self) -> bool:
        """Whether this user sees the jobs of others, as far as is known."""
        return bool(self._settings) and "jobs" not in self._settings.get("PrivateData", "")


@dataclass
class JobRecords:
    """Slurm's newest record of each job. An answer is reused for ten seconds if the same jobs are asked for."""

    slurm: Slurm
    _keys: frozenset[JobKey] = frozenset()
    _found: dict[JobKey, Record] = field(default_factory=dict)
    _turns: dict[JobKey, Turn] = field(default_factory=dict)
    _asked_at: float = float("-inf")

    def get(self, keys: frozenset[JobKey], silent: SchedulerError | None = None) -> dict[JobKey, Record]:
        """The records of these jobs; none for a job that cannot be judged.

        At most one sacct and one squeue; no squeue if the controller is ``silent``. Raises ``SchedulerError`` if neither
        answers.
        """
        if keys != self._keys or time.monotonic() - self._asked_at > _POLL_SECONDS:
            self._found = _newest_records(self.slurm, keys, silent)
            waits = any(key in keys and one.meaning.state is State.PENDING for key, one in self._found.items())
            self._turns = _turns(self.slurm) if waits and not silent else {}
            self._keys, self._asked_at = keys, time.monotonic()
        return self._found

    def turn(self, key: JobKey) -> Turn | None:
        """When it will be a waiting job's turn; None if that is not known."""
        return self._turns.get(key)


class SlurmCluster:
    """A cluster as it is seen from one machine: Slurm's commands there, and what they answered lately."""

    def __init__(self, machine: SlurmMachine) -> None:
        self.machine, self.slurm = machine, Slurm(machine)
        self.controller, self.records = Controller(self.slurm), JobRecords(self.slurm)


def _newest_records(slurm: Slurm, keys: frozenset[JobKey], silent: SchedulerError | None) -> dict[JobKey, Record]:
    """Accounting's records, and the queue's for jobs that have not ended as far as accounting knows.

    The queue has the last word: accounting shows a job as PREEMPTED until it has been requeued.
    """
    accounted, failure = _accounted(slurm, {job for job, _ in keys})
    found = {record.key: record for record in accounted}
    open_keys = {key for key in keys if key not in found or _may_be_alive(found[key])}
    if not open_keys:
        return found
    try:
        if silent:
            raise silent
        queued = {record.key: record for record in slurm.queued({job for job, _ in open_keys})}
    except SchedulerError as exc:
        if failure:
            if str(failure) == str(exc):  # there is no way to either
                raise
            raise SchedulerError(f"{exc}; and {failure}") from exc
        doubtful = {key for key in open_keys & set(found) if found[key].meaning.state.finished}  # or requeued by now
    else:
        active = {key for key in open_keys & set(found) if found[key].meaning.state in (State.PENDING, State.RUNNING)}
        doubtful = active - set(queued)  # the controller has lost them, and accounting will never see their end
        found |= queued
    return {key: record for key, record in found.items() if key not in doubtful}


def _turns(slurm: Slurm) -> dict[JobKey, Turn]:
    try:
        return slurm.turns()
    except SchedulerError:  # that they wait is known
        return {}


def _accounted(slurm: Slurm, jobs: Iterable[int]) -> tuple[list[Record], SchedulerError | None]:
    """Accounting's records, or why there are none: many clusters have no accounting."""
    try:
        return slurm.accounted(jobs), None
    except SchedulerError as exc:
        return [], exc


def _may_be_alive(record: Record) -> bool:
    return not record.meaning.state.finished or record.meaning.may_be_requeued


def observation(key: JobKey, record: Record | None, turn: Turn | None, *, shows_all: bool) -> Observation:
    """What Slurm says of a job, with its own words as the detail. ``shows_all``: whether ``turn`` counts all users' jobs."""
    if record is None:
        job, task = key
        name = f"{job}" if task is None else f"{job}_{task}"
        return Observation(State.UNKNOWN, f"Slurm has no record of its job {name} any more")
    text = _describe(record)
    if turn and record.meaning.state is State.PENDING:
        text += f"; place {turn.place} of {turn.of} in {turn.partition}" if shows_all else ""
        text += f"; expected to start at {turn.start.replace('T', ' ')}" if turn.start else ""
    return Observation(record.meaning.state, text, detail=text)


def _describe(record: Record) -> str:
    where = f" on {record.nodes}" if record.nodes else ""
    state, meaning = record.meaning.state, record.meaning.meaning
    if not state.finished:
        words = REASONS.get(record.reason.partition(",")[0].strip(), "")
        why = f" ({record.reason}{': ' if words else ''}{words})" if record.reason else ""
        since = f" for {record.elapsed}" if state is State.RUNNING and record.elapsed else ""
        return f"{record.state} in Slurm{why}{where}{since}"
    after = f" after {record.elapsed}" if record.elapsed else ""
    code = f" with exit code {record.exit_code}" if record.state == "FAILED" and record.exit_code else ""
    return f"{record.state} in Slurm{code}{where}{after}{f': {meaning}' if meaning else ''}"
