"""A SLURM site: ``slurm/<name>.yaml``. Every setting is documented, and has its default, in ``slurm/default.yaml``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cefr_batch.launch.sites import PATTERNS as SHARED_PATTERNS
from cefr_batch.launch.sites import Line, Time, Variable, load, refuse_secrets, seconds_of
from cefr_batch.levels import Part, PositiveInt
from cefr_batch.settings import Layers

SIGNAL_SLACK_SECONDS = 60  # Slurm may send --signal up to a minute early (sbatch(1))

_WORD = r"^[A-Za-z0-9_][A-Za-z0-9_.,:&|()*\[\]@-]*$"
_FOLDER = r"^/[^\x00-\x1f\x7f%]*$"
_MOUNT = r"^/[^\x00-\x1f\x7f:,]*:/[^\x00-\x1f\x7f:,]*(:ro)?$"
_MEMORY = r"^[1-9][0-9]*[MGT]$"
_OPTION = r"^--[a-z][a-z-]*(=[^\x00-\x1f\x7f]+)?$"
PATTERNS = {
    **SHARED_PATTERNS,
    _WORD: "a name without spaces or quotes",
    _FOLDER: "an absolute path (or one in ~, a home folder) without % and line breaks",
    _MOUNT: "HOST:INSIDE or HOST:INSIDE:ro, absolute paths without commas",
    _MEMORY: "a number and M, G or T, as in 32G",
    _OPTION: "a long option of sbatch, as in --exclude=node7",
}

# gpu, gpu:2, gpu:rtx4090:1, gpu:1g.10gb:1: a type has something that is no digit.
_GPUS = re.compile(r"(?P<name>gpu(:(?=[0-9.]*[A-Za-z_])[A-Za-z0-9_.-]+)?)(:(?P<count>[0-9]+))?")

# What the project decides of a job, in sbatch's words.
_TAKEN = {
    "--array", "--chdir", "--cpus-per-task", "--dependency", "--error", "--export", "--gres", "--job-name", "--mem",
    "--nodes", "--ntasks", "--ntasks-per-node", "--no-requeue", "--open-mode", "--output", "--parsable", "--requeue",
    "--signal", "--time", "--wait", "--wrap",
}  # fmt: skip

Word = Annotated[str, Field(pattern=_WORD)]
Folder = Annotated[str, Field(pattern=_FOLDER)]


class Container(Part):
    runtime: Literal["none", "apptainer", "pyxis", "charliecloud"]
    image: Line | None
    program: Line
    mounts: list[Annotated[str, Field(pattern=_MOUNT)]]
    options: list[Line]

    @model_validator(mode="after")
    def _has_an_image(self) -> Container:
        if self.runtime != "none" and self.image is None:
            raise ValueError(f"container.image: missing; {self.runtime} needs one")
        if self.runtime == "charliecloud" and any(mount.endswith(":ro") for mount in self.mounts):
            raise ValueError("container.mounts: charliecloud cannot mount read-only; leave :ro out")
        return self


class SlurmSite(Part):
    partition: Line | None
    account: Line | None
    qos: Line | None
    constraint: Word | None
    gres: Word | None
    cpus: PositiveInt
    memory: Annotated[str, Field(pattern=_MEMORY)]
    time: Time
    options: list[Annotated[str, Field(pattern=_OPTION)]]
    array_limit: PositiveInt | None
    signal_seconds: Annotated[int, Field(ge=10, le=3600)]
    max_restarts: Annotated[int, Field(ge=0)]
    shared: Folder
    work: Folder | None
    python: Line | None
    backend: Literal["unsloth", "peft"]
    container: Container
    environment: dict[Variable, Line]
    setup: list[Line]
    credentials: Literal["file", "environment"]
    gpu: Word | None
    price_per_hour: Annotated[float, Field(ge=0)] | None
    check_gpu: bool

    @model_validator(mode="after")
    def _options_of_its_own(self) -> SlurmSite:
        taken = [option for option in self.options if option.partition("=")[0] in _TAKEN]
        if taken:
            raise ValueError(f"options: {', '.join(taken)}: set by cefr-batch itself, or by a setting of its own")
        return self

    @model_validator(mode="after")
    def _no_secrets(self) -> SlurmSite:
        refuse_secrets(self.environment, "set them in the shell that submits, see credentials")
        return self

    @model_validator(mode="after")
    def _folders_that_can_be_mounted(self) -> SlurmSite:
        for name, folder in (("shared", self.shared), ("work", self.work or "")):
            if self.container.runtime != "none" and re.search("[:,]", folder):
                raise ValueError(f"{name}: {folder} has a colon or a comma, and cannot be mounted into a container")
        return self

    @model_validator(mode="after")
    def _time_for_a_checkpoint(self) -> SlurmSite:
        needed = self.signal_seconds + SIGNAL_SLACK_SECONDS
        if self.seconds <= needed:
            raise ValueError(
                f"time: {self.time} leaves no time to train: a job is told {self.signal_seconds} s before its limit to "
                f"store a checkpoint (signal_seconds), and Slurm may tell it a minute early; give more than {needed} s"
            )
        return self

    @property
    def seconds(self) -> int:
        """The time limit."""
        return seconds_of(self.time)

    @property
    def memory_mb(self) -> int:
        return int(self.memory[:-1]) * {"M": 1, "G": 1024, "T": 1024**2}[self.memory[-1]]

    @property
    def gpu_request(self) -> tuple[str, int] | None:
        """The name and number of the gres ``gpu``, as in ``("gpu:rtx4090", 1)``; None where none is asked for."""
        match = _GPUS.fullmatch(self.gres or "")
        return (match["name"], int(match["count"] or 1)) if match else None

    @property
    def jobs(self) -> Path:
        """Where submitit keeps scripts, pickles and what jobs print."""
        return Path(self.shared) / "jobs"

    @property
    def cache(self) -> Path:
        """Models, for all jobs."""
        return Path(self.shared) / "cache"

    @property
    def work_root(self) -> Path:
        return Path(self.work or f"{self.shared}/work")


class _SiteLayers(Layers[SlurmSite]):
    def located(self, key: str, value: Any, folder: Path) -> Any:
        """Folders without ``~``, an image that is a file of the site's folder with its whole path."""
        if key in ("shared", "work", "python") and isinstance(value, str):
            return os.path.expanduser(value)  # an unknown user's ~ stays, and is refused
        if key == "container.image" and isinstance(value, str) and value.startswith(("./", "../", "~")):
            return os.path.abspath(folder / os.path.expanduser(value))  # noqa: PTH100 (keeps symlinks)
        return value


def load_site(name: str) -> SlurmSite:
    """The site of this name. Raises ``SpecError`` with every problem of its file."""
    return load(_SiteLayers(SlurmSite, patterns=PATTERNS), "slurm", name)
