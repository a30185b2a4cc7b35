"""Slurm's commands and the parsing of what they print. Parsing is pure; every failure is a ``SchedulerError`` that quotes
the command's own message."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import sleep

from cefr_batch.errors import SchedulerError
from cefr_batch.schedulers.slurm.machine import AnswerLost, SlurmMachine, ThisMachine
from cefr_batch.schedulers.slurm.states import SlurmState, full_name, lookup

TRY_LATER = "try again later, or ask your cluster's administrators"

_TIMEOUT_SECONDS = 60  # a busy controller answers late, one that is down after its own timeouts
QUESTION_SECONDS = 4.0  # for a question that has another answer: what the store knows, or "try again later"

# Variables of an allocation, which a job submitted or a command called inside it must not take for its own (SLURM_CONF and
# the like say where Slurm is), and variables that change what squeue and the like print.
_ALLOCATION = re.compile(
    r"(SLURM_(?!CONF$|CONF_SERVER$|JWT$)|SLURMD_|SRUN_|SQUEUE_|SACCT_|SINFO_|SCANCEL_|PMI_|PMI2_|PMIX_).*"
)
# What sbatch says when it does not know whether the controller has taken the job (slurm_strerror of 22.05 to 26.05).
_NO_ANSWER = re.compile(
    r"timed out|Zero Bytes|Unable to contact|Connection|Communication|Unexpected message", re.IGNORECASE
)
_LOOKS, _LOOK_SECONDS = 3, 2.0  # for a job of which it is not known whether it was submitted
_NOTHING = "it submitted no job"
_HAS_ENDED = re.compile(r"Invalid job id|already complet|exit code", re.IGNORECASE)

JobKey = tuple[int, int | None]  # a job's number, and its index in an array


@dataclass(frozen=True)
class Record:
    """What Slurm says of one job. ``task``: its index in an array, else None. ``state``: Slurm's, by its full name."""

    job: int
    task: int | None
    state: str
    exit_code: str = ""
    elapsed: str = ""
    nodes: str = ""
    reason: str = ""

    @property
    def key(self) -> JobKey:
        """What identifies the job."""
        return self.job, self.task

    @property
    def meaning(self) -> SlurmState:
        """The entry of its state in the table of states."""
        return lookup(self.state)


@dataclass(frozen=True)
class Accepted:
    """A submitted job or array: its number, and its cluster where sbatch names it (several clusters with one accounting)."""

    job: int
    cluster: str | None = None


@dataclass(frozen=True)
class QueueEntry:
    """Whose a job of the queue is: its user's id, its name, and the path of the script that it was made from."""

    user: int
    name: str
    script: str


@dataclass(frozen=True)
class Turn:
    """When a waiting job is expected to start (``2026-11-26T13:00:00``; empty: Slurm cannot tell), and how many wait in its
    partition: it is the ``place``-th of ``of``, an array counting as one."""

    place: int
    of: int
    partition: str
    start: str = ""


def without_allocation(variables: Mapping[str, str]) -> dict[str, str]:
    """An environment without the variables of an allocation."""
    return {key: value for key, value in variables.items() if not _ALLOCATION.fullmatch(key)}


def is_silent(exc: SchedulerError) -> bool:
    """Whether an error says that Slurm's controller, its accounting, or the machine to ask them on, does not answer."""
    silent = isinstance(exc, AnswerLost) or isinstance(exc.__cause__, (subprocess.TimeoutExpired, ConnectionError))
    return silent or bool(_NO_ANSWER.search(str(exc)))


@dataclass(frozen=True)
class Slurm:
    """Slurm's commands on one machine."""

    machine: SlurmMachine = field(default_factory=ThisMachine)

    def run(
        self,
        *command: str,
        env: Mapping[str, str] | None = None,
        login: bool = False,
        stdin: str = "",
        timeout: float | None = None,
    ) -> str:
        """Run one of Slurm's commands and return its standard output. Blocks for at most ``timeout`` seconds (None: 60).

        ``env`` and ``login``: as ``SlurmMachine.run`` takes them; None: without the variables of an allocation. Raises
        ``SchedulerError`` if it is not installed, does not answer or fails.
        """
        timeout = timeout or _TIMEOUT_SECONDS
        try:
            env = self.environment if env is None else env
            done = self.machine.run(command, stdin=stdin, env=env, login=login, timeout=timeout)
        except FileNotFoundError as exc:
            raise SchedulerError(f"there is no {command[0]} {self.machine.no_slurm}") from exc
        except OSError as exc:
            raise SchedulerError(f"cannot run {command[0]}: {exc.strerror or exc}") from exc
        except subprocess.TimeoutExpired as exc:
            raise SchedulerError(
                f"{command[0]} got no answer from the Slurm controller in {timeout:g} s; {TRY_LATER}"
            ) from exc
        if done.returncode:
            message = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise SchedulerError(f"{command[0]}: {message.removeprefix(f'{command[0]}: error: ')}")
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        """This process's variables, as far as commands there get any, without those of an allocation."""
        return without_allocation(self.machine.variables)

    def configuration(self, timeout: float | None = None) -> dict[str, str]:
        """The settings of this machine's Slurm, its ``ClusterName`` among them. Raises ``SchedulerError``."""
        lines = (line.partition("=") for line in self.run("scontrol", "show", "config", timeout=timeout).splitlines())
        found = {key.strip(): value.strip() for key, equals, value in lines if equals}
        if not found.get("ClusterName"):
            raise SchedulerError(
                "`scontrol show config` printed no ClusterName; run it yourself, and ask your cluster's administrators if "
                "it has none"
            )
        return found

    def sbatch(self, command: Sequence[str], script: str, env: Mapping[str, str]) -> Accepted:
        """Submit a script and return its job or array. Not idempotent.

        ``command``: ``sbatch --parsable``, more options, the path ``script``, which is used for no other job, and its
        argument; ``env``: the environment that Slurm hands on to the job. Raises ``SchedulerError`` if Slurm refuses the
        script. No answer, a failure, or an answer without a job id is an error too; what was submitted all the same is then
        found by its script and cancelled: sbatch fails with "Socket timed out" after the controller has taken a job, a
        wrapper after sbatch has, and a connection may end before the answer has come.
        """
        try:
            answer = self.run(*command, env=env, login=True)
        except SchedulerError as exc:
            if isinstance(exc.__cause__, OSError):  # it was not run
                raise
            late = is_silent(exc)
            found = self.take_back([script], looks=_LOOKS if late else 1)
            raise (SchedulerError(f"{exc}; {found}") if late or found != _NOTHING else exc) from exc
        accepted = parse_sbatch(answer)
        if accepted is not None:
            return accepted
        printed = " ".join(answer.split())[-300:] or "nothing"
        raise SchedulerError(
            f"sbatch --parsable should print a job id last, but it printed {printed!r}; {self.take_back([script])}; if "
            "sbatch is a wrapper here, ask your cluster's administrators for Slurm's own"
        )

    def take_back(self, scripts: Sequence[str], *, looks: int = 1) -> str:
        """Cancel the jobs of these scripts, and of no others, whatever numbers they have. Returns what was done, for a
        message.

        Looks up to ``looks`` times, two seconds apart, as long as it finds none: a controller that answers late may take a
        job after sbatch has given up.
        """
        which = " and ".join(scripts)
        try:
            jobs = self._jobs_of(scripts)
            for _ in range(looks - 1):
                if jobs:
                    break
                sleep(_LOOK_SECONDS)
                jobs = self._jobs_of(scripts)
            if jobs:
                self.run("scancel", *jobs)
        except SchedulerError as exc:
            return f"whether it submitted a job is not known ({exc}), look for {which} with `squeue --format='%i %o'`"
        return f"the job that it submitted ({', '.join(jobs)}) was cancelled" if jobs else _NOTHING

    def _jobs_of(self, scripts: Sequence[str]) -> list[str]:
        """The numbers of this user's jobs and arrays in the queue that were made from one of these scripts."""
        answer = self.run("squeue", "--noheader", f"--user={self.machine.uid}", "--format=%F|%o")
        lines = [line.strip().partition("|") for line in answer.splitlines()]
        mine = {job for job, _, path in lines if any(path == one or path.startswith(f"{one} ") for one in scripts)}
        return sorted(job for job in mine if job.isdecimal())

    def own_scripts(self) -> list[str]:
        """The paths of the scripts of this user's jobs that have not ended. Raises ``SchedulerError``."""
        options = ("--noheader", f"--user={self.machine.uid}", "--format=%o")
        return self.run("squeue", *options, timeout=QUESTION_SECONDS).splitlines()

    def accounted(self, jobs: Iterable[int]) -> list[Record]:
        """The newest record that accounting has of each of these jobs; one ``sacct`` for all."""
        fields = "JobID,State,ExitCode,Elapsed,NodeList,Reason"
        options = ("--allocations", "--noheader", "--parsable2", f"--format={fields}", f"--jobs={_listed(jobs)}")
        text = self.run("sacct", *options, timeout=QUESTION_SECONDS)
        return [record for line in text.splitlines() for record in parse_sacct(line)]

    def queued(self, jobs: Iterable[int]) -> list[Record]:
        """What the controller knows of these jobs: those that have not ended and, for some minutes, those that have. One
        ``squeue`` for all."""
        return [record for line in self._squeue(jobs, "%i|%T|%M|%N|%r") for record in parse_squeue(line)]

    def turns(self) -> dict[JobKey, Turn]:
        """The turn of every job that waits, of all users that this one may see. One ``squeue``."""
        options = ("--start", "--noheader", "--format=%i|%Q|%P|%S")
        return parse_turns(self.run("squeue", *options, timeout=QUESTION_SECONDS))

    def entries(self, jobs: Iterable[int]) -> dict[JobKey, QueueEntry]:
        """Whose these jobs are, of those that the controller still knows. One ``squeue`` for all."""
        lines = self._squeue(jobs, "%i|%U|%o|%j")
        rows = [row for line in lines if len(row := line.strip().split("|", 3)) == 4 and row[1].isdecimal()]
        return {key: QueueEntry(int(row[1]), row[3], row[2]) for row in rows for key in parse_id(row[0])}

    def _squeue(self, jobs: Iterable[int], columns: str) -> list[str]:
        """A line for each of these jobs that the controller still knows, an array's one by one."""
        options = ("--array", "--noheader", "--states=all", f"--jobs={_listed(jobs)}", f"--format={columns}")
        try:
            return self.run("squeue", *options, timeout=QUESTION_SECONDS).splitlines()
        except SchedulerError as exc:
            if "Invalid job id" in str(exc):  # none of them is left in the queue
                return []
            raise

    def cancel(self, jobs: Sequence[str]) -> None:
        """Remove pending jobs from the queue, and ask running ones to stop (SIGINT to their steps). Idempotent.

        ``jobs``: ids as in ``7`` or ``7_0``. scancel fails, after doing what it can, when one of them has ended or is no
        longer known; that is no error here.
        """
        for options in (["--state=PENDING"], ["--state=RUNNING", "--signal=INT"]):
            try:
                self.run("scancel", *options, *jobs)
            except SchedulerError as exc:
                if not _HAS_ENDED.search(str(exc)):
                    raise


def parse_sbatch(text: str) -> Accepted | None:
    """The job in what ``sbatch --parsable`` prints: its last line, ``7`` or ``7;cluster``. None if it is neither.

    Wrappers print lines of their own before it, which may name jobs too.
    """
    last = text.strip().rpartition("\n")[2].strip()
    match = re.fullmatch(r"([0-9]+)(?:;([^;\s/]+))?", last)
    return Accepted(int(match[1]), match[2]) if match else None


def parse_sacct(line: str) -> Iterator[Record]:
    """The records in a line of ``accounted``: a job, a task of an array, or the tasks of an array that still wait
    (``7_[0-3,9%2]``).

    Nothing for a line that is not of that form. A state may say by whom (``CANCELLED by 1000``), be cut short
    (``OUT_OF_ME+``) or be followed by a plus; nodes may be ``None assigned``.
    """
    parts = line.split("|")
    if len(parts) < 6:
        return
    identifier, state, exit_code, elapsed, nodes, *reason = (part.strip() for part in parts)
    nodes = "" if nodes.startswith("None") else nodes
    for job, task in parse_id(identifier):
        yield Record(job, task, full_name(state), exit_code, elapsed, nodes, _reason("|".join(reason)))


def parse_squeue(line: str) -> Iterator[Record]:
    """The records in a line of ``queued``. The reason comes last, since it may contain anything."""
    parts = line.split("|", 4)
    if len(parts) < 5:
        return
    identifier, state, elapsed, nodes, reason = (part.strip() for part in parts)
    for job, task in parse_id(identifier):
        yield Record(job, task, full_name(state), "", elapsed, nodes, _reason(reason))


def parse_turns(text: str) -> dict[JobKey, Turn]:
    """The turns in what ``turns`` asks for, a line for each job or array: its id, priority, partition and start."""
    rows = [parts for line in text.splitlines() if len(parts := line.strip().split("|")) == 4 and parts[1].isdecimal()]
    waiting: dict[str, list[list[str]]] = {}
    for row in sorted(rows, key=lambda row: (-int(row[1]), number(row[0]))):
        waiting.setdefault(row[2], []).append(row)
    found: dict[JobKey, Turn] = {}
    for partition, its in waiting.items():
        for place, (identifier, _, _, start) in enumerate(its, 1):
            turn = Turn(place, len(its), partition, start if start[:1].isdecimal() else "")
            found |= dict.fromkeys(parse_id(identifier), turn)
    return found


def parse_id(text: str) -> Iterator[JobKey]:
    """The jobs that ``7``, ``7_3``, ``7_[0-3,9%2]`` or ``7_[0-8:4]`` stands for.

    Nothing for a step (``7.batch``) or a part of a heterogeneous job (``7+1``); of a list that Slurm cut short
    (``7_[1,3,...]``) those that it names.
    """
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


def parse_pairs(line: str) -> Mapping[str, str]:
    """A line of ``scontrol --oneliner``: ``Key=value`` with no spaces in keys; a value may contain spaces."""
    found = re.findall(r"(?:^|\s)([A-Z][A-Za-z:/]*)=(.*?)(?=\s[A-Z][A-Za-z:/]*=|\s*$)", line)
    return dict(found)


def number(text: str) -> int:
    """A count as sinfo prints it; ``4+`` (at least 4) is 4, and what is no number 0."""
    match = re.match(r"[0-9]+", text)
    return int(match[0]) if match else 0


def seconds(limit: str) -> int | None:
    """A time limit (``1-00:00:00``, ``08:00:00``, ``30:00``, ``30`` minutes) in seconds; None for no limit."""
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


def _reason(text: str) -> str:
    bare = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    return "" if bare in ("None", "", "null") else bare


def _listed(jobs: Iterable[int]) -> str:
    return ",".join(str(job) for job in sorted(set(jobs)))
