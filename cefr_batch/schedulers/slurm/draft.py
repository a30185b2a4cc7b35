"""What a Slurm cluster shows of the settings of a site file: partitions and GPUs by ``sinfo``, accounts by ``sacctmgr``."""

from __future__ import annotations

import getpass
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from cefr_batch.errors import SchedulerError, UsageError
from cefr_batch.models.device import installed_torch
from cefr_batch.planning.gpus import recognized_gpu
from cefr_batch.schedulers.draft import DraftSetting, unknown
from cefr_batch.schedulers.slurm import client
from cefr_batch.schedulers.slurm.checks import LOCAL_FILE_SYSTEMS, in_a_clone
from cefr_batch.schedulers.slurm.gres import Gres, parse_gres
from cefr_batch.schedulers.slurm.machine import SlurmMachine, ThisMachine
from cefr_batch.schedulers.slurm.site import HOST, PATTERNS, SIGNAL_SLACK_SECONDS
from cefr_batch.schedulers.slurm.ssh import OverSsh

_SECONDS = 10.0  # for each command
_CPUS, _MEMORY_MB, _TIME, _TIME_SECONDS = 8, 32 * 1024, "08:00:00", 8 * 3600  # the defaults of slurm/default.yaml
_SHORTEST_SECONDS = 120 + SIGNAL_SLACK_SECONDS
_EXAMPLES = {"partition": "gpu", "gres": "gpu:1", "gpu": "rtx4090", "cpus": _CPUS, "memory": "32G", "time": _TIME}
_JOBS = "cefr-batch-jobs"  # in the home folder, beside a clone, which is cefr-batch
_PYTHON = ".venv-unsloth/bin/python"  # in a clone
_NO_SLURM = (
    "here; run this on a machine of the cluster where Slurm's commands are (a login node), or add --host "
    "me@login.cluster.edu, and it asks there over ssh"
)


@dataclass(frozen=True)
class _Person:
    """Who submits jobs, on the machine that has Slurm's commands: the user's name and home folder there."""

    name: str
    home: Path


@dataclass
class Partition:
    """A partition as ``sinfo`` shows it. ``gpus``: how many of each type all its nodes have; ``cpus``, ``memory_mb``: of its
    largest node."""

    name: str
    default: bool
    up: bool
    limit: str
    cpus: int = 0
    memory_mb: int = 0
    gpus: Counter[str] = field(default_factory=Counter)

    @property
    def summary(self) -> str:
        """Its name, with its GPUs and what is special about it."""
        gpus = ", ".join(f"{count} x {kind or 'GPU'}" for kind, count in self.gpus.most_common()) or "no GPU"
        return f"{self.name} ({gpus}{', the default' if self.default else ''}{'' if self.up else ', down'})"


def draft(host: str | None = None) -> list[DraftSetting]:
    """The settings in the order of a site file. ``host``: the login node that is asked over ssh; None: this machine is one.

    Blocks for at most half a minute, and longer where ssh asks a person. Raises ``UsageError`` for what is no host, and
    ``SchedulerError`` for a host that cannot be asked.
    """
    if host and not re.fullmatch(HOST, host):
        raise UsageError(f"--host: must be {PATTERNS[HOST]} (got {host!r})")
    machine = OverSsh(host) if host else ThisMachine()
    named = [DraftSetting("host", host, "The login node, by the name that ssh takes.")] if host else []
    person = _person_there(machine) if host else _Person(getpass.getuser(), Path.home())
    if machine.lacks(["sinfo"]):
        if host:
            raise SchedulerError(f"there is no sinfo {machine.no_slurm}")
        places = {"shared": f"/shared/me/{_JOBS}", "python": f"/shared/me/cefr-batch/{_PYTHON}"}
        return unknown(f"there is no sinfo {_NO_SLURM}", **_EXAMPLES, account="my-project", **places)
    slurm = client.Slurm(machine)
    partition = _of_partition(slurm)
    has_gpu = any(one.key == "gres" and one.value for one in partition)
    python = _python_there(host, person, has_gpu) if host else _python_here(has_gpu)
    return [*named, *partition, *_of_account(slurm, person), _shared(slurm, person, host), *python]


def _person_there(machine: SlurmMachine) -> _Person:
    """Raises ``SchedulerError``."""
    try:
        done = machine.run(["sh", "-c", 'id -un && printf "%s\\n" "$HOME"'], timeout=_SECONDS)
    except subprocess.TimeoutExpired as exc:
        raise SchedulerError(f"nothing answered {machine.where} in {exc.timeout:g} s; {client.TRY_LATER}") from exc
    user, home, *_ = [*done.stdout.splitlines(), "", ""]
    if not home.startswith("/"):
        raise SchedulerError(f"which user you are {machine.where} cannot be found out; {client.TRY_LATER}")
    return _Person(user, Path(home))


def _of_partition(slurm: client.Slurm) -> list[DraftSetting]:
    try:
        found = partitions(slurm.run("sinfo", "--noheader", "--format=%P|%a|%l|%c|%m|%D|%G", timeout=_SECONDS))
    except SchedulerError as exc:
        return unknown(str(exc), **_EXAMPLES)
    if not found:
        return unknown("sinfo shows no partition", **_EXAMPLES)
    best = max(found, key=lambda one: (one.up, bool(one.gpus), one.default))
    others = ", ".join(one.summary for one in found if one is not best)
    why = f"sinfo shows {best.summary}" + (f"; others: {others}" if others else "")
    return [DraftSetting("partition", best.name, why), *_gpu(best), *_limits(best)]


def partitions(text: str) -> list[Partition]:
    """The partitions in what ``sinfo --format=%P|%a|%l|%c|%m|%D|%G`` prints: a line for each kind of node of each."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split("|", 6)]
        if len(parts) < 7 or not parts[0]:
            continue
        name, up, limit, cpus, memory, nodes, gres = parts
        known = found.setdefault(name.rstrip("*"), Partition(name.rstrip("*"), name.endswith("*"), up == "up", limit))
        known.cpus = max(known.cpus, client.number(cpus))
        known.memory_mb = max(known.memory_mb, client.number(memory))
        for one in _read(gres):
            if one.is_gpu:
                known.gpus[one.kind] += one.count * client.number(nodes)
    return list(found.values())


def _read(gres: str) -> list[Gres]:
    try:
        return parse_gres(gres)
    except ValueError:  # of a version that writes it in another way
        return []


def _gpu(partition: Partition) -> Iterator[DraftSetting]:
    if not partition.gpus:
        yield DraftSetting("gres", None, f"No node of {partition.name} has a GPU (sinfo), so jobs train on the CPU.")
        return
    ((kind, _),) = partition.gpus.most_common(1)
    shown = ", ".join(f"gpu:{one}" if one else "gpu" for one in partition.gpus)
    yield DraftSetting("gres", f"gpu:{kind}:1" if kind else "gpu:1", f"One GPU for a job. Its nodes have: {shown}.")
    if known := recognized_gpu(kind):
        yield DraftSetting("gpu", known.key, "So that submit checks whether a run fits in its memory.")
    else:
        named = f"{kind} is not a GPU that cefr-batch knows" if kind else "Slurm does not say which GPU it is"
        yield from unknown(f"{named}; `cefr-batch config gpus` lists those known.", gpu="rtx4090")


def _limits(partition: Partition) -> Iterator[DraftSetting]:
    """What of the defaults the partition's nodes or its time limit do not allow."""
    if 0 < partition.cpus < _CPUS:
        yield DraftSetting("cpus", partition.cpus, "All that a node has (sinfo).")
    if 1024 <= partition.memory_mb < _MEMORY_MB:
        yield DraftSetting("memory", f"{partition.memory_mb}M", "All that a node has (sinfo).")
    elif partition.memory_mb < 1024:
        yield from unknown("Slurm does not know the memory of its nodes (sinfo shows less than 1 GB).", memory="32G")
    limit = _seconds(partition.limit)
    if limit and _SHORTEST_SECONDS < limit < _TIME_SECONDS:
        clock = f"{limit // 3600:02}:{limit % 3600 // 60:02}:{limit % 60:02}"
        yield DraftSetting(
            "time", clock, "The partition's limit (sinfo). A job that needs longer is requeued and resumes."
        )


def _seconds(limit: str) -> int | None:
    try:
        return client.seconds(limit)
    except ValueError:  # of a version that writes it in another way
        return None


def _of_account(slurm: client.Slurm, person: _Person) -> list[DraftSetting]:
    look = "`sacctmgr show assoc user=$USER` lists your accounts"
    ask = "ask your cluster's administrators whether jobs need an account; if not, leave this out"
    command = ("sacctmgr", "--noheader", "--parsable2", "show", "user", f"name={person.name}", "withassoc")
    try:
        text = slurm.run(*command, "format=DefaultAccount,Account,QOS", timeout=_SECONDS)
    except SchedulerError as exc:
        return unknown(f"{exc}; {ask}", account="my-project")
    accounts, qos = associations(text)
    if not accounts:
        return unknown(
            f"sacctmgr shows no account of yours; {look}; where there are none, leave this out.", account="my-project"
        )
    why = f"Your accounts (sacctmgr): {', '.join(accounts)}." if len(accounts) > 1 else "Your only account (sacctmgr)."
    more = f" You may set `qos` too: {', '.join(qos)}." if len(qos) > 1 else ""
    return [DraftSetting("account", accounts[0], why + more)]


def associations(text: str) -> tuple[list[str], list[str]]:
    """A user's accounts, the default first, and qualities of service, from lines of ``default account|account|qos,qos``."""
    rows = [line.strip().split("|") for line in text.splitlines()]
    rows = [row for row in rows if len(row) >= 3]
    accounts = _distinct([row[0] for row in rows] + [row[1] for row in rows])
    return accounts, _distinct(name for row in rows for name in row[2].split(","))


def _distinct(names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name]


def _shared(slurm: client.Slurm, person: _Person, host: str | None) -> DraftSetting:
    folder = person.home / _JOBS
    use = "for scripts, output and the cache of models"
    try:
        _, kind = slurm.machine.folder(folder)
        why = in_a_clone(slurm.machine, folder)
        if not why and kind in LOCAL_FILE_SYSTEMS and not _is_every_node(slurm):
            why = f"{person.home} is on {kind}, which seems to be a local disk"
    except SchedulerError as exc:
        kind, why = "unknown", str(exc)
    if why:
        example, which = f"/shared/{person.name}/{_JOBS}", "which folder every node sees"
        return DraftSetting("shared", example, f"{which}, {use}: {why}.", known=False)
    value = str(folder) if host else f"~/{_JOBS}"
    return DraftSetting("shared", value, f"A folder that every node sees, {use}; {person.home} is on {kind}.")


def _is_every_node(slurm: client.Slurm) -> bool:
    """Whether the cluster has no other node than the machine that is asked. Raises ``SchedulerError``."""
    hosts = slurm.run("sinfo", "--noheader", "--Node", "--format=%n", timeout=_SECONDS).split()
    return {host.split(".")[0] for host in hosts} == {slurm.machine.node}


def _python_there(host: str, person: _Person, has_gpu: bool) -> Iterator[DraftSetting]:
    """``has_gpu``: whether the jobs ask for a GPU."""
    target, folder = ("setup-unsloth", _PYTHON) if has_gpu else ("setup", ".venv/bin/python")
    yield from unknown(
        f"a Python on {host} that has cefr-batch. To make one: `ssh {host}`, and there `git clone` this project, as you did "
        f"here, in a folder that every node sees, then `make {target}` in the clone. Name its Python here.",
        python=f"{person.home}/cefr-batch/{folder}",
    )
    if not has_gpu:
        yield DraftSetting("backend", "peft", "Jobs without a GPU train without Unsloth.")


def _python_here(has_gpu: bool) -> Iterator[DraftSetting]:
    """``has_gpu``: whether the jobs ask for a GPU. They run in this Python, unless ``python`` names another."""
    torch, cuda = installed_torch()
    if has_gpu and torch and cuda is None:
        yield from unknown(
            f"this Python's torch ({torch}) cannot use a GPU. Name a Python that can (`make setup-unsloth` in a clone of "
            "cefr-batch makes one), or set `container`, or, for jobs without a GPU, set `gres: null` and delete `gpu` "
            "(`--cluster slurm/cpu` has it so).",
            python="/path/to/cefr-batch/.venv-unsloth/bin/python",
        )
    if find_spec("unsloth"):
        yield DraftSetting("backend", "unsloth", "This Python, which starts the jobs, has Unsloth.")
    else:
        why = "This Python, which starts the jobs, has no Unsloth. Set `unsloth` if another `python` or `container` has it."
        yield DraftSetting("backend", "peft", why)
