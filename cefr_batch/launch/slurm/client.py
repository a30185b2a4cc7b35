"""Slurm's commands, and what they print. Parsing is pure; every failure is a ``LaunchError`` in Slurm's own words."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from cefr_batch.errors import LaunchError
from cefr_batch.launch.base import State

_TIMEOUT_SECONDS = 60  # a busy controller answers late, a dead one after its own time-outs

# What a job inherits from the one that submits it must not be taken for its own (SLURM_CONF says where Slurm is).
# and what sets options of squeue and the like changes what they print.
_INHERITED = re.compile(
    r"(SLURM_(?!CONF$|CONF_SERVER$|JWT$)|SLURMD_|SRUN_|SQUEUE_|SACCT_|SINFO_|SCANCEL_|PMI_|PMI2_|PMIX_).*"
)

# Slurm's states (squeue(1), sacct(1)) in our words. PENDING and RUNNING: nothing has ended.
STATES = {
    "PENDING": State.PENDING,
    "CONFIGURING": State.PENDING,
    "REQUEUED": State.PENDING,
    "REQUEUE_FED": State.PENDING,
    "REQUEUE_HOLD": State.PENDING,
    "RESV_DEL_HOLD": State.PENDING,
    "SPECIAL_EXIT": State.PENDING,
    "RUNNING": State.RUNNING,
    "COMPLETING": State.RUNNING,
    "EXPEDITING": State.RUNNING,
    "RESIZING": State.RUNNING,
    "SIGNALING": State.RUNNING,
    "STAGE_OUT": State.RUNNING,
    "STOPPED": State.RUNNING,
    "SUSPENDED": State.RUNNING,
    "UPDATE_DB": State.RUNNING,
    "POWER_UP_NODE": State.PENDING,
    "COMPLETED": State.SUCCEEDED,
    "CANCELLED": State.CANCELLED,
    "REVOKED": State.CANCELLED,
    "PREEMPTED": State.PREEMPTED,
    "BOOT_FAIL": State.FAILED,
    "DEADLINE": State.FAILED,
    "FAILED": State.FAILED,
    "LAUNCH_FAILED": State.FAILED,
    "NODE_FAIL": State.FAILED,
    "OUT_OF_MEMORY": State.FAILED,
    "RECONFIG_FAIL": State.FAILED,
    "TIMEOUT": State.FAILED,
}


@dataclass(frozen=True)
class Record:
    """What Slurm says of one job. ``task``: of an array, else None. ``state`` without what may follow (``by 1000``)."""

    job: int
    task: int | None
    state: str
    exit_code: str = ""
    elapsed: str = ""
    nodes: str = ""
    reason: str = ""

    @property
    def our_state(self) -> State:
        return STATES.get(self.state, State.UNKNOWN)


_ENDED = re.compile(r"Invalid job id|already complet|exit code", re.IGNORECASE)


def environment() -> dict[str, str]:
    """This process's environment without what an allocation put there."""
    return {key: value for key, value in os.environ.items() if not _INHERITED.fullmatch(key)}


def slurm(*command: str) -> str:
    """The standard output of one of Slurm's commands."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_SECONDS, env=environment()
        )
    except FileNotFoundError as exc:
        raise LaunchError(
            f"there is no {command[0]} here; run this on a machine of the cluster where Slurm's commands are (a login node)"
        ) from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise LaunchError(f"{command[0]} does not answer: {exc}") from exc
    if done.returncode:
        words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise LaunchError(f"{command[0]}: {words.removeprefix(f'{command[0]}: error: ')}")
    return done.stdout


def account(jobs: Iterable[int]) -> list[Record]:
    """What accounting knows of these jobs, the newest record of each; all in one ``sacct``."""
    fields = "JobID,State,ExitCode,Elapsed,NodeList,Reason"
    text = slurm("sacct", "--allocations", "--noheader", "--parsable2", f"--format={fields}", f"--jobs={_listed(jobs)}")
    return [record for line in text.splitlines() for record in parse_sacct(line)]


def queue(jobs: Iterable[int]) -> list[Record]:
    """What the controller knows of these jobs: those that have not ended, and for some minutes those that have."""
    try:
        text = slurm(
            "squeue", "--array", "--noheader", "--states=all", f"--jobs={_listed(jobs)}", "--format=%i|%T|%M|%N|%r"
        )
    except LaunchError as exc:
        if "Invalid job id" in str(exc):  # it has forgotten all of them
            return []
        raise
    return [record for line in text.splitlines() for record in parse_squeue(line)]


def parse_sacct(line: str) -> Iterator[Record]:
    """A line of ``account``: a job, a task of an array, or the tasks of an array that still wait (``7_[0-3,9%2]``).

    Nothing for a line that is not of that form. A state may say by whom (``CANCELLED by 1000``), be cut short
    (``OUT_OF_ME+``) or be followed by a plus; nodes may be ``None assigned``.
    """
    parts = line.split("|")
    if len(parts) < 6:
        return
    identifier, state, exit_code, elapsed, nodes, *reason = (part.strip() for part in parts)
    for job, task in parse_id(identifier):
        yield Record(
            job,
            task,
            _state(state),
            exit_code,
            elapsed,
            "" if nodes.startswith("None") else nodes,
            _reason("|".join(reason)),
        )


def parse_squeue(line: str) -> Iterator[Record]:
    """A line of ``queue``. The reason comes last, since it may hold anything."""
    parts = line.split("|", 4)
    if len(parts) < 5:
        return
    identifier, state, elapsed, nodes, reason = (part.strip() for part in parts)
    for job, task in parse_id(identifier):
        yield Record(job, task, _state(state), "", elapsed, nodes, _reason(reason))


def parse_id(text: str) -> Iterator[tuple[int, int | None]]:
    """``7``, ``7_3``, ``7_[0-3,9%2]``, ``7_[0-8:4]`` → the job and its tasks. Nothing for a step (``7.batch``), a part of
    a heterogeneous job (``7+1``), or a list that Slurm cut short (``7_[1,3,...]``: what it names counts)."""
    match = re.fullmatch(r"([0-9]+)(?:_(?:([0-9]+)|\[([0-9,:.-]*)(?:%[0-9]+)?\]?))?", text)
    if not match:
        return
    job, task, tasks = match.groups()
    if tasks is None:
        yield int(job), int(task) if task else None
        return
    for part in tasks.split(","):
        numbers = re.fullmatch(r"([0-9]+)(?:-([0-9]+)(?::([1-9][0-9]*))?)?", part)
        if numbers:
            first, last, step = numbers.groups()
            yield from ((int(job), n) for n in range(int(first), int(last or first) + 1, int(step or 1)))


def _state(text: str) -> str:
    word = text.split()[0].rstrip("+") if text.split() else ""
    if word in STATES or not text.endswith("+"):
        return word
    return next((state for state in STATES if state.startswith(word)), word) if len(word) > 3 else word


def _reason(text: str) -> str:
    bare = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    return "" if bare in ("None", "", "null") else bare


def _listed(jobs: Iterable[int]) -> str:
    return ",".join(str(job) for job in sorted(set(jobs)))


def parse_pairs(line: str) -> Mapping[str, str]:
    """A line of ``scontrol --oneliner``: ``Key=value`` with no spaces in keys; a value may hold spaces."""
    found = re.findall(r"(?:^|\s)([A-Z][A-Za-z:/]*)=(.*?)(?=\s[A-Z][A-Za-z:/]*=|\s*$)", line)
    return dict(found)


def seconds(limit: str) -> int | None:
    """``1-00:00:00``, ``08:00:00``, ``30:00``, ``30`` (minutes) → seconds; None for no limit."""
    if limit in ("UNLIMITED", "INFINITE", "NONE", "n/a", ""):
        return None
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days:
        parts += [0] * (3 - len(parts))
    elif len(parts) == 1:
        parts = [0, parts[0], 0]
    while len(parts) < 3:
        parts.insert(0, 0)
    return int(days or 0) * 86400 + parts[0] * 3600 + parts[1] * 60 + parts[2]


@cache
def cluster_name() -> str:
    """The ``ClusterName`` of this machine's Slurm, asked once."""
    for line in slurm("scontrol", "show", "config").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "ClusterName":
            return value.strip()
    raise LaunchError("scontrol show config does not say the cluster's name")


def cancel(jobs: Sequence[str]) -> None:
    """Take waiting jobs out of the queue, and ask running ones to stop (SIGINT to their steps).

    scancel fails, but does what it can, when one of its jobs has ended or is forgotten.
    """
    for options in (["--state=PENDING"], ["--state=RUNNING", "--signal=INT"]):
        try:
            slurm("scancel", *options, *jobs)
        except LaunchError as exc:
            if not _ENDED.search(str(exc)):
                raise
