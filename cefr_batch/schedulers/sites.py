"""What schedulers with site files share: reading a site file, types of its settings, the properties of its jobs."""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, Field
from typing_extensions import override

from cefr_batch.config.layers import Layers, settings_files, settings_folders
from cefr_batch.config.schema import NOTIFY_VARIABLE, NotifySpec
from cefr_batch.errors import Problem, SpecError
from cefr_batch.schedulers.base import Check, Scheduler
from cefr_batch.schedulers.draft import DraftSetting
from cefr_batch.schedulers.secrets import looks_secret

log = logging.getLogger(__name__)

_FOR_CPUS = re.compile(r"(?<![a-z0-9])cpu(?![a-z0-9])", re.IGNORECASE)

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")

LINE = r"^[^\x00-\x1f\x7f]+$"
TIME = r"^([0-9]+-)?[0-9]{1,3}:[0-9]{2}:[0-9]{2}$"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
PATTERNS = {
    LINE: "one line of text",
    TIME: 'HH:MM:SS or D-HH:MM:SS, such as "04:00:00"',
    VARIABLE: "the name of an environment variable",
    NOTIFY_VARIABLE: "the name of an environment variable that begins with CEFR_BATCH_NOTIFY",
}

Line = Annotated[str, Field(pattern=LINE)]
Time = Annotated[str, Field(pattern=TIME)]
Variable = Annotated[str, Field(pattern=VARIABLE)]


SITE_NOTIFY = "CEFR_BATCH_SITE_NOTIFY"  # the environment variable by which a job learns a site's ``notify``; no secret

# The environment variable by which a job learns which scheduler started it, where the job's end does not keep that scheduler
# from starting it again.
SCHEDULER = "CEFR_BATCH_SCHEDULER"


def notify_environment(settings: NotifySpec | None) -> dict[str, str]:
    """How a site's ``notify`` reaches its jobs."""
    return {SITE_NOTIFY: settings.model_dump_json()} if settings else {}


class Site(Protocol):
    """The settings that every kind of site has."""

    @property
    def backend(self) -> str:
        """The training backend of a run whose own setting is ``auto``."""

    @property
    def gpu(self) -> str | None:
        """The type of GPU; None if it is not known."""

    @property
    def price_per_hour(self) -> float | None:
        """What an hour of one GPU costs; None if it is not known."""

    @property
    def notify(self) -> NotifySpec | None:
        """The messages about runs that have no such setting of their own."""


S = TypeVar("S", bound=Site)


@dataclass(frozen=True)
class SiteFile(Generic[M]):
    """What a site file says. ``readable``: its settings, though there may be problems with them; None if a value cannot be
    used."""

    readable: M | None
    problems: Sequence[Problem] = ()

    @property
    def settings(self) -> M:
        """The settings. Raises ``SpecError`` with every problem."""
        if self.problems or self.readable is None:
            raise SpecError(self.problems)
        return self.readable


class SiteScheduler(Scheduler[R], Generic[R, S]):
    """A scheduler configured by a site file: ``scheme/NAME``, or ``scheme`` alone for the site ``default``."""

    def __init__(self, site: str = "default") -> None:
        self.site_name = site

    @abstractmethod
    def load(self) -> SiteFile[Any]:
        """Read and check the site file. Raises ``SpecError`` if there is none."""

    @abstractmethod
    def draft(self, host: str | None = None) -> list[DraftSetting]:
        """What the cluster that this machine reaches shows of a site file's settings. Reads no site file. Blocks for at most
        half a minute; what cannot be found out is in the list, not an error, but for a host that cannot be asked.

        ``host``: a machine of the cluster to ask over ssh, which then takes as long as its login; only SLURM has one.
        Raises ``UsageError`` for what is no host."""

    @cached_property
    def _file(self) -> SiteFile[Any]:
        """Read when it is first needed: jobs are observed and cancelled without it."""
        return self.load()

    @cached_property
    def site(self) -> S:
        """The site's settings. Raises ``SpecError`` with every problem."""
        settings: S = self._file.settings
        return settings

    @property
    def readable_site(self) -> S | None:
        """The site's settings in spite of problems with them, for checks; None if a value cannot be used. Raises
        ``SpecError`` if there is no such file."""
        return self._file.readable

    def not_asked(self) -> list[Check]:
        """What ``check`` finds where there is no ``readable_site``."""
        why = f"{self.site_file} has a value that cannot be used, so the cluster was not asked"
        return [Check("cluster", why, warning=True)]

    @override
    def require_settings(self) -> None:
        self._file.settings  # noqa: B018 (raises)

    @property
    def site_file(self) -> str:
        """The site file, as messages name it."""
        return f"{self.scheme}/{self.site_name}.yaml"

    @property
    @override
    def name(self) -> str:
        return self.scheme if self.site_name == "default" else f"{self.scheme}/{self.site_name}"

    @property
    @override
    def gpu(self) -> str | None:
        return self.site.gpu

    @property
    @override
    def price_per_hour(self) -> float | None:
        return self.site.price_per_hour

    @property
    @override
    def notify(self) -> NotifySpec | None:
        return self.site.notify

    @override
    def backends(self) -> Sequence[str]:
        preferred = site.backend if (site := self.readable_site) else "peft"
        return (preferred, *(name for name in ("unsloth", "peft") if name != preferred))


def load(layers: Layers[M], kind: str, name: str) -> SiteFile[M]:
    """Read the site file ``<kind>/<name>.yaml`` into ``layers`` and check it. Logs a warning for each deprecated key.

    Raises ``SpecError`` with the names of the known sites if there is no such file.
    """
    files = settings_files(kind)
    if name not in files:
        where = " or ".join(str(folder / f"{name}.yaml") for folder in settings_folders(kind))
        raise SpecError([Problem("--cluster", f"there is no {where}; sites known: {', '.join(sorted(files))}")])
    layers.parents = files
    layers.add_file(files[name])
    for warning in layers.warnings:
        log.warning(warning)
    readable = layers.read()
    return SiteFile(readable, tuple(layers.problems))


def seconds_of(time: str) -> int:
    """A ``Time`` in seconds."""
    days, _, clock = time.rpartition("-")
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def check_image(where: str, image: str, backends: Iterable[str], *, has_gpu: bool) -> Iterator[Check]:
    """Whether jobs in a container find Unsloth there. Of an image only the name is known: that of the one for CPUs, which
    has no Unsloth, ends with ``-cpu``. Unsloth trains without a GPU too, where it is installed.

    ``where``: the site file and the setting of the image, for messages; ``has_gpu``: whether jobs may get a GPU.
    """
    if "unsloth" not in backends:
        return
    what, remedy = "backend unsloth", "set `backend: peft` in the site file, or --set backend=peft"
    if _FOR_CPUS.search(image.partition("@")[0].rpartition("/")[2]):
        problem = f"{image} has the name of an image for CPUs, which has no Unsloth, but jobs would train with Unsloth"
        yield Check(
            what, f"{where}: {problem}; {remedy}, or name an image that has it (the one with -cuda)", opinion=True
        )
    elif not has_gpu:
        problem = f"jobs get no GPU and would train with Unsloth, which {image} may not have: images for CPUs do not"
        yield Check(what, f"{where}: {problem}; {remedy}", warning=True)


def secrets_in(environment: dict[str, str], instead: str) -> Iterator[str]:
    """What is wrong if a site's ``environment`` sets a secret, as far as its name tells. ``instead``: what to do with
    it, for the message."""
    found = sorted(filter(looks_secret, environment))
    if found:
        yield f"environment: {', '.join(found)}: no secrets in a site file; {instead}"
