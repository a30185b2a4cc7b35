"""Slurm's job states: ours for each, what it means where that is not obvious, and whether the job may start again."""

from __future__ import annotations

from dataclasses import dataclass

from cefr_batch.schedulers.base import State


@dataclass(frozen=True)
class SlurmState:
    """What one of Slurm's states means.

    ``meaning``: what happened and what to do, for a user; ``may_be_requeued``: Slurm starts such a job again by itself if
    its cluster is set up so, and accounting shows this state until it has.
    """

    state: State
    meaning: str = ""
    may_be_requeued: bool = False


_PENDING, _RUNNING = SlurmState(State.PENDING), SlurmState(State.RUNNING)
_FAILED, _CANCELLED = SlurmState(State.FAILED), SlurmState(State.CANCELLED)

# The job states of squeue(1) and sacct(1), 22.05 to 25.05.
STATES = {
    "PENDING": _PENDING,
    "CONFIGURING": _PENDING,
    "POWER_UP_NODE": _PENDING,
    "REQUEUED": _PENDING,
    "REQUEUE_FED": _PENDING,
    "REQUEUE_HOLD": _PENDING,
    "RESV_DEL_HOLD": _PENDING,
    "SPECIAL_EXIT": _PENDING,
    "RUNNING": _RUNNING,
    "COMPLETING": _RUNNING,
    "EXPEDITING": _RUNNING,
    "RESIZING": _RUNNING,
    "SIGNALING": _RUNNING,
    "STAGE_OUT": _RUNNING,
    "STOPPED": _RUNNING,
    "SUSPENDED": _RUNNING,
    "UPDATE_DB": _RUNNING,
    "COMPLETED": SlurmState(State.SUCCEEDED),
    "CANCELLED": _CANCELLED,
    "REVOKED": SlurmState(State.CANCELLED, may_be_requeued=True),
    "PREEMPTED": SlurmState(State.PREEMPTED, "it was preempted, and Slurm did not requeue it", may_be_requeued=True),
    "BOOT_FAIL": SlurmState(State.FAILED, "its node did not boot, and Slurm did not requeue it", may_be_requeued=True),
    "DEADLINE": SlurmState(State.FAILED, "it reached its deadline"),
    "FAILED": _FAILED,
    "LAUNCH_FAILED": _FAILED,
    "NODE_FAIL": SlurmState(State.FAILED, "its node failed, and Slurm did not requeue it", may_be_requeued=True),
    "OUT_OF_MEMORY": SlurmState(State.FAILED, "it ran out of main memory; raise `memory` in the site file"),
    "RECONFIG_FAIL": _FAILED,
    "TIMEOUT": SlurmState(
        State.FAILED,
        "it reached its time limit before it had stored a checkpoint; raise `signal_seconds` in the site file",
    ),
}
_UNKNOWN = SlurmState(State.UNKNOWN, may_be_requeued=True)


_LOWER_TIME = (
    "its `time` is longer than this limit allows, so it will never start; cancel it, lower `time` in the site file, and "
    "resume the run"
)
_TAKES_TURNS = "your jobs take turns; it starts when others of yours have ended"
# Why a job waits, in words, where Slurm's own need some (squeue(1), JOB REASON CODES).
REASONS = {
    "QOSMaxWallDurationPerJobLimit": _LOWER_TIME,
    "AssocMaxWallDurationPerJobLimit": _LOWER_TIME,
    "PartitionTimeLimit": _LOWER_TIME,
    "QOSMaxJobsPerUserLimit": _TAKES_TURNS,
    "QOSMaxGRESPerUser": _TAKES_TURNS,
    "AssocMaxJobsLimit": _TAKES_TURNS,
    "JobArrayTaskLimit": "array_limit of the site file; it starts when others of the array have ended",
    "BeginTime": "it was requeued, and Slurm waits a while before it starts it again",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "PartitionDown": "the partition starts no jobs now",
    "PartitionInactive": "the partition starts no jobs now",
    "JobHeldUser": "held; `scontrol release` lets it go",
    "JobHeldAdmin": "held by an administrator",
    "BadConstraints": "no node has what it asks for, so it will never start; cancel it and correct the site file",
    "InvalidQOS": "its QOS is not one of yours, so it will never start; cancel it and correct the site file",
    "InvalidAccount": "its account is not one of yours, so it will never start; cancel it and correct the site file",
}


def lookup(name: str) -> SlurmState:
    """The entry of a state; UNKNOWN for one that the table does not list."""
    return STATES.get(name, _UNKNOWN)


def full_name(text: str) -> str:
    """A state as Slurm prints it, by its full name: without what may follow it (``CANCELLED by 1000``, ``CANCELLED+``), and
    completed where a column was too narrow (``OUT_OF_ME+``)."""
    word, *_ = text.split() or [""]
    name = word.rstrip("+")
    if name in STATES or not text.endswith("+") or len(name) <= 3:
        return name
    return next((state for state in STATES if state.startswith(name)), name)
