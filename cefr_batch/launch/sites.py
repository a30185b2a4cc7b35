"""What launchers with site files have in common: where the files are, kinds of settings, what a site says of its jobs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Generic, Protocol, TypeVar

from pydantic import BaseModel, Field

from cefr_batch.errors import Problem, SpecError
from cefr_batch.launch.base import Launcher
from cefr_batch.launch.secrets import SECRETS
from cefr_batch.settings import Layers, settings_folders

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")

LINE = r"^[^\x00-\x1f\x7f]+$"
TIME = r"^([0-9]+-)?[0-9]{1,3}:[0-9]{2}:[0-9]{2}$"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
PATTERNS = {
    LINE: "one line of text",
    TIME: "HH:MM:SS or D-HH:MM:SS",
    VARIABLE: "the name of an environment variable",
}

Line = Annotated[str, Field(pattern=LINE)]
Time = Annotated[str, Field(pattern=TIME)]
Variable = Annotated[str, Field(pattern=VARIABLE)]


class Site(Protocol):
    """What every site has."""

    @property
    def backend(self) -> str: ...
    @property
    def gpu(self) -> str | None: ...
    @property
    def price_per_hour(self) -> float | None: ...


S = TypeVar("S", bound=Site)


class SiteLauncher(Launcher[R], Generic[R, S]):
    """A launcher whose jobs run as a site file says: ``scheme/NAME``, or ``scheme`` alone for the site ``default``."""

    def __init__(self, site: str = "default") -> None:
        self.site_name = site

    @abstractmethod
    def load(self) -> S:
        """The site of this name. Raises ``SpecError``."""

    @cached_property
    def site(self) -> S:
        """Read when it is needed: jobs are observed and cancelled without it."""
        return self.load()

    @property
    def site_file(self) -> str:
        """As a message names it."""
        return f"{self.scheme}/{self.site_name}.yaml"

    @property
    def name(self) -> str:
        return self.scheme if self.site_name == "default" else f"{self.scheme}/{self.site_name}"

    @property
    def gpu(self) -> str | None:
        return self.site.gpu

    @property
    def price_per_hour(self) -> float | None:
        return self.site.price_per_hour

    def backends(self) -> Sequence[str]:
        return (self.site.backend, *(name for name in ("unsloth", "peft") if name != self.site.backend))


def load(layers: Layers[M], kind: str, name: str) -> M:
    """The site ``<kind>/<name>.yaml``, read into ``layers``. Raises ``SpecError`` with every problem of its file."""
    folders = settings_folders(kind)
    files = {
        path.stem: path for folder in reversed(folders) for path in folder.glob("*.yaml")
    }  # the first folder's count
    if name not in files:
        where = " or ".join(str(folder / f"{name}.yaml") for folder in folders)
        raise SpecError([Problem("--cluster", f"there is no {where}; sites known: {', '.join(sorted(files))}")])
    layers.parents = files
    layers.add_file(files[name])
    return layers.resolve()


def seconds_of(time: str) -> int:
    """A ``Time`` in seconds."""
    days, _, clock = time.rpartition("-")
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def refuse_secrets(environment: dict[str, str], instead: str) -> None:
    """``ValueError`` if a site's environment sets a secret. ``instead``: where it belongs."""
    found = sorted(set(SECRETS) & set(environment))
    if found:
        raise ValueError(f"environment: {', '.join(found)}: no secrets in a site file; {instead}")
