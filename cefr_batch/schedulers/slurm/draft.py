"""What a Slurm cluster shows of the settings of a site file: partitions and GPUs by ``sinfo``, accounts by ``sacctmgr``."""

from __future__ import annotations

import getpass
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from cefr_batch.errors import SchedulerError
from cefr_batch.files import existing_parent
from cefr_batch.models.device import installed_torch
from cefr_batch.planning.gpus import recognized_gpu
from cefr_batch.schedulers.draft import DraftSetting, unknown
from cefr_batch.schedulers.slurm import client
from cefr_batch.schedulers.slurm.checks import LOCAL_FILE_SYSTEMS
from cefr_batch.schedulers.slurm.gres import Gres, parse_gres
from cefr_batch.schedulers.slurm.machine import file_system
from cefr_batch.schedulers.slurm.site import SIGNAL_SLACK_SECONDS

_SECONDS = 10.0  # for each command
_CPUS, _MEMORY_MB, _TIME, _TIME_SECONDS = 8, 32 * 1024, "08:00:00", 8 * 3600  # the defaults of slurm/default.yaml
_SHORTEST_SECONDS = 120 + SIGNAL_SLACK_SECONDS


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


def draft() -> list[DraftSetting]:
    """The settings in the order of a site file. Blocks for at most half a minute; never raises."""
    partition = _of_partition()
    has_gpu = any(one.key == "gres" and one.value for one in partition)
    return [*partition, *_of_account(), _shared(), *_of_python(has_gpu)]


def _of_partition() -> list[DraftSetting]:
    examples = {"partition": "gpu", "gres": "gpu:1", "gpu": "rtx4090", "cpus": _CPUS, "memory": "32G", "time": _TIME}
    try:
        found = partitions(client.Slurm().run("sinfo", "--noheader", "--format=%P|%a|%l|%c|%m|%D|%G", timeout=_SECONDS))
    except SchedulerError as exc:
        return unknown(str(exc), **examples)
    if not found:
        return unknown("sinfo shows no partition", **examples)
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


def _of_account() -> list[DraftSetting]:
    look = "`sacctmgr show assoc user=$USER` lists your accounts"
    ask = "ask your cluster's administrators whether jobs need an account; if not, leave this out"
    command = ("sacctmgr", "--noheader", "--parsable2", "show", "user", "name=" + getpass.getuser(), "withassoc")
    try:
        text = client.Slurm().run(*command, "format=DefaultAccount,Account,QOS", timeout=_SECONDS)
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


def _shared() -> DraftSetting:
    home = Path.home()
    kind = file_system(existing_parent(home))
    use = "for scripts, output and the cache of models"
    if kind in LOCAL_FILE_SYSTEMS:
        why = f"which folder every node sees, {use}: {home} is on {kind}, which seems to be a local disk."
        return DraftSetting("shared", f"/shared/{getpass.getuser()}/cefr-batch", why, known=False)
    return DraftSetting("shared", "~/cefr-batch", f"A folder that every node sees, {use}; {home} is on {kind}.")


def _of_python(has_gpu: bool) -> Iterator[DraftSetting]:
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
