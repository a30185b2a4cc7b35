"""A SLURM site: ``slurm/<name>.yaml``. Every setting and its default are documented in ``slurm/default.yaml``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import override

from cefr_batch.config.layers import Layers
from cefr_batch.config.schema import NotifySpec, PositiveInt, StrictModel
from cefr_batch.errors import Problem
from cefr_batch.schedulers.sites import PATTERNS as SHARED_PATTERNS
from cefr_batch.schedulers.sites import Line, SiteFile, Time, Variable, load, seconds_of, secrets_in
from cefr_batch.schedulers.slurm.gres import Asked, asked, gpus_of

SIGNAL_SLACK_SECONDS = 60  # Slurm may send --signal up to a minute early (sbatch(1))

_WORD = r"^[A-Za-z0-9_][A-Za-z0-9_.,:&|()*\[\]@-]*$"
_GRES = r"^[A-Za-z0-9_][A-Za-z0-9_.,:/=-]*$"
_FOLDER = r"^/[^\x00-\x1f\x7f%]*$"
HOST = r"^([A-Za-z0-9_][A-Za-z0-9_.+\\-]*@)?[A-Za-z0-9_][A-Za-z0-9_.:-]*$"
_MOUNT = r"^/[^\x00-\x1f\x7f:,]*:/[^\x00-\x1f\x7f:,]*(:ro)?$"
_MEMORY = r"^[1-9][0-9]*[MGT]$"
_OPTION = r"^--[a-z][a-z-]*(=[^\x00-\x1f\x7f]+)?$"
PATTERNS = {
    **SHARED_PATTERNS,
    _WORD: "a name without spaces or quotes",
    _GRES: "a name without spaces or quotes",
    _FOLDER: "an absolute path (or one in ~, a home folder) without % and line breaks",
    HOST: "what ssh takes, as in me@login.cluster.edu, or a Host of ~/.ssh/config; a port belongs there",
    _MOUNT: "HOST:INSIDE or HOST:INSIDE:ro, absolute paths without commas",
    _MEMORY: "a number and M, G or T, as in 32G",
    _OPTION: "a long option of sbatch, as in --exclude=node7",
}

# Options of sbatch that cefr-batch sets itself.
_TAKEN = {
    "--array", "--chdir", "--cpus-per-task", "--dependency", "--error", "--export", "--gres", "--job-name", "--mem",
    "--nodes", "--ntasks", "--ntasks-per-node", "--no-requeue", "--open-mode", "--output", "--parsable", "--requeue",
    "--signal", "--time", "--wait", "--wrap",
}  # fmt: skip

Word = Annotated[str, Field(pattern=_WORD)]
Memory = Annotated[str, Field(pattern=_MEMORY)]
Folder = Annotated[str, Field(pattern=_FOLDER)]


class Container(StrictModel):
    """How jobs run in a container image; ``runtime: none`` for jobs without one."""

    runtime: Literal["none", "apptainer", "pyxis", "charliecloud"]
    image: Line | None
    program: Line
    mounts: list[Annotated[str, Field(pattern=_MOUNT)]]
    options: list[Line]

    def broken_rules(self) -> Iterator[str]:
        """What is wrong with settings of which each is well-formed."""
        if self.runtime != "none" and self.image is None:
            kinds = "a .sif file, an unpacked image's folder, or a reference such as docker://…"
            build = "docs/containers.md shows how to build it"
            yield f"container.image: missing; set it to your image of cefr-batch ({kinds}; {build})"
        if self.runtime == "charliecloud" and any(mount.endswith(":ro") for mount in self.mounts):
            yield "container.mounts: charliecloud cannot mount read-only; remove :ro"


class SlurmSite(StrictModel):
    """The settings of a site file, each well-formed. With ``host`` all paths are that machine's."""

    host: Annotated[str, Field(pattern=HOST)] | None = None
    partition: Line | None
    account: Line | None
    qos: Line | None
    constraint: Word | None
    gres: Annotated[str, Field(pattern=_GRES)] | None
    cpus: PositiveInt | None
    memory: Memory | None
    mem_per_cpu: Memory | None = None
    time: Time
    options: list[Annotated[str, Field(pattern=_OPTION)]]
    array_limit: PositiveInt | None
    array_size: PositiveInt = 1000
    signal_seconds: Annotated[int, Field(ge=10, le=3600)]
    max_restarts: Annotated[int, Field(ge=0)]
    shared: Folder
    work: Folder | None
    python: Line | None
    backend: Literal["unsloth", "peft"]
    container: Container
    environment: dict[Variable, Line]
    setup: list[Line]
    setup_errors: Literal["stop", "ignore"] = "stop"
    credentials: Literal["file", "environment"]
    gpu: Word | None
    price_per_hour: Annotated[float, Field(ge=0)] | None
    check_gpu: bool
    notify: NotifySpec | None = None

    def broken_rules(self) -> Iterator[str]:
        """What is wrong with settings of which each is well-formed: why no job can be submitted with them."""
        taken = [option for option in self.options if option.partition("=")[0] in _TAKEN]
        if taken:
            yield (
                f"options: {', '.join(taken)}: set by cefr-batch itself; remove it, or use the setting of that name "
                "(slurm/default.yaml lists all)"
            )
        if self.host and self.python is None:
            yield (
                f"python: missing; set it, in your site file, to the absolute path of a Python on {self.host}. That Python "
                "needs cefr-batch[slurm] and, unless jobs run in a container, cefr-batch[train] and the backend"
            )
        if self.memory and self.mem_per_cpu:
            yield "mem_per_cpu: memory is set too, and Slurm takes only one of them; set the other to null"
        yield from secrets_in(self.environment, "set them in the shell that submits, see credentials")
        yield from self.container.broken_rules()
        for name, folder in (("shared", self.shared), ("work", self.work or "")):
            if self.container.runtime != "none" and re.search("[:,]", folder):
                yield f"{name}: {folder} has a colon or a comma, so it cannot be mounted into a container; choose another"
        needed = self.signal_seconds + SIGNAL_SLACK_SECONDS
        if self.seconds <= needed:
            yield (
                f"time: {self.time} leaves no time to train: a job is signalled {self.signal_seconds} s before its limit to "
                f"store a checkpoint (signal_seconds), and Slurm may do so a minute early; give more than {needed} s"
            )

    @property
    def seconds(self) -> int:
        """The time limit in seconds."""
        return seconds_of(self.time)

    @property
    def memory_mb(self) -> int | None:
        """The main memory of a job in MiB; None if the cluster or an option decides it."""
        if self.memory or not (self.mem_per_cpu and self.cpus):
            return _mebibytes(self.memory) if self.memory else None
        return _mebibytes(self.mem_per_cpu) * self.cpus

    @property
    def asked(self) -> list[Asked]:
        """What ``gres`` and ``options`` ask for of generic resources, GPUs above all."""
        return asked(self.gres, self.options)

    @property
    def gpus(self) -> int | None:
        """How many GPUs a job gets, in whatever form the site asks for them; None if that cannot be told."""
        return gpus_of(self.asked)

    def chosen(self, name: str) -> str | None:
        """What jobs get of an option, such as the partition or the nodelist: one in ``options`` goes before the setting of
        its name."""
        given = [value for option, _, value in (one.partition("=") for one in self.options) if option == f"--{name}"]
        setting: str | None = getattr(self, name, None)
        return given[-1] if given else setting

    @property
    def jobs(self) -> Path:
        """The folder of scripts, submitit's pickles and jobs' output."""
        return Path(self.shared) / "jobs"

    @property
    def credentials_folder(self) -> Path:
        """The folder of the files that jobs read their secrets from."""
        return Path(self.shared) / "credentials"

    @property
    def cache(self) -> Path:
        """The cache of models that all jobs use."""
        return Path(self.shared) / "cache"

    @property
    def work_root(self) -> Path:
        """The folder in which jobs have their work folders."""
        return Path(self.work or f"{self.shared}/work")


def _mebibytes(memory: str) -> int:
    return int(memory[:-1]) * {"M": 1, "G": 1024, "T": 1024**2}[memory[-1]]


@dataclass
class _SiteLayers(Layers[SlurmSite]):
    """``given``: the paths of the cluster as they stand in the files."""

    given: dict[str, str] = field(default_factory=dict)

    @override
    def located(self, key: str, value: Any, folder: Path) -> Any:
        # folders without ``~``; an image given relative to the site file by its absolute path
        if key not in ("shared", "work", "python", "container.image") or not isinstance(value, str):
            self.given.pop(key, None)
            return value
        self.given[key] = value
        if key != "container.image":
            return os.path.expanduser(value)  # an unknown user's ~ stays and is refused
        if value.startswith(("./", "../", "~")):
            return os.path.abspath(folder / os.path.expanduser(value))  # noqa: PTH100 (keeps symlinks)
        return value

    @override
    def read(self) -> SlurmSite | None:
        if host := self.values.get("host"):
            for key, value in self.given.items():
                if value.startswith(("./", "../", "~")):
                    what = (
                        f"{key}: {value} is a path of this machine, and with `host` it must be one of the cluster's; set "
                        f"it to an absolute path in the site file (`ssh {host} pwd` prints your home folder there)"
                    )
                    self.problems.append(Problem(self._where(key), what))
        return super().read()


def read_site(name: str) -> SiteFile[SlurmSite]:
    """Read and check the site file of this name. Raises ``SpecError`` if there is none."""
    one_memory = {"memory": ("mem_per_cpu",), "mem_per_cpu": ("memory",)}  # of several files the last decides
    layers = _SiteLayers(
        SlurmSite,
        patterns=PATTERNS,
        shorthand={"notify": "variable"},
        replaces=one_memory,
        rules=SlurmSite.broken_rules,
    )
    return load(layers, "slurm", name)


def load_site(name: str) -> SlurmSite:
    """The site of this name. Raises ``SpecError`` with every problem of its file."""
    return read_site(name).settings
