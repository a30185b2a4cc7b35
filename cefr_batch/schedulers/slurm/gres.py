"""Generic resources in every form in which Slurm writes and takes them, parsed here alone: ``gpu:rtx4090:2``,
``gres/gpu=1``, ``--gpus-per-task=a100:2``, and what ``sinfo`` shows of nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

_SHARES = ("shard", "mps")  # parts of a GPU (gres.html of Slurm); a job sees the GPU itself
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_KIND = re.compile(r"[A-Za-z0-9_.+-]+")
_COUNT = re.compile(r"(?P<number>[0-9]+)(?P<unit>[KMGTPkmgtp]?)")
_UNITS: dict[str, int] = {unit: 1024**power for power, unit in enumerate(("", "k", "m", "g", "t", "p"))}
_PREFIX = re.compile(r"gres[:/]")
_COMMA = re.compile(r",(?![^()]*\))")  # not within (S:0,1)

# Options of sbatch that ask for GPUs, and how many of what they count a node of one task has (None: not known here).
_GPU_OPTIONS = {"--gpus": 1, "--gpus-per-node": 1, "--gpus-per-task": 1, "--gpus-per-socket": None}
_TRES_OPTIONS = ("--tres-per-task",)
# Options that mean nothing to a job without a GPU, or give it one.
_ABOUT_GPUS = {
    *_GPU_OPTIONS, *_TRES_OPTIONS, "--cpus-per-gpu", "--mem-per-gpu", "--gpu-bind", "--gpu-freq", "--gres-flags",
    "--ntasks-per-gpu",
}  # fmt: skip


@dataclass(frozen=True)
class Gres:
    """A number of one generic resource. ``kind``: Slurm's type, empty for any."""

    name: str
    kind: str = ""
    count: int = 1

    def __str__(self) -> str:
        return ":".join(part for part in (self.name, self.kind, str(self.count)) if part)

    @property
    def is_gpu(self) -> bool:
        """Whether it is GPUs, not parts of them or something else."""
        return self.name == "gpu"

    @property
    def gpus(self) -> int:
        """How many GPUs a job sees that has it."""
        return self.count if self.is_gpu else int(self.name in _SHARES and self.count > 0)

    def of(self, node: Iterable[Gres]) -> int:
        """How many a node has of what this asks for."""
        return sum(one.count for one in node if one.name == self.name and self.kind.lower() in ("", one.kind.lower()))


def parse_gres(text: str) -> list[Gres]:
    """The entries of a list such as ``gpu:rtx4090:2,shard:4``, as ``--gres`` takes it and ``sinfo`` prints it.

    An entry is ``[gres:]name[[:type]:count]``, with ``gres/`` and ``=count`` too; a number alone is a count, which may end
    with a unit (``4G``). Raises ``ValueError`` for what is none.
    """
    if text.strip() in ("", "(null)", "none", "N/A"):
        return []
    return [_entry(part.strip()) for part in _COMMA.split(text)]


def _entry(text: str) -> Gres:
    bare = re.sub(r"\(.*\)$", "", _PREFIX.sub("", text, count=1))
    name, *more = [part for part in re.split("[:=]", bare) if part != "no_consume"]
    count = _count(more.pop()) if more and (len(more) == 2 or _COUNT.fullmatch(more[-1])) else 1
    kind = more.pop() if more else ""
    if more or bare.endswith((":", "=")) or not _NAME.fullmatch(name) or (kind and not _KIND.fullmatch(kind)):
        raise ValueError(f"{text!r} is not name[[:type]:count]")
    return Gres(name, kind, count)


def _count(text: str) -> int:
    match = _COUNT.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a count")
    return int(match["number"]) * _UNITS[match["unit"].lower()]


def parse_gpus(text: str) -> list[Gres]:
    """The entries of ``[type:]number[,[type:]number…]``, as ``--gpus`` and the like take it: Slurm puts ``gpu:`` before
    each. Raises ``ValueError``."""
    return [_entry(f"gpu:{part.strip()}") for part in text.split(",")]


@dataclass(frozen=True)
class Asked:
    """What a job asks for on its node, in one setting or option. ``why``: why it cannot be told, else empty; then there are
    no ``entries``, and it may or may not be GPUs."""

    where: str
    text: str
    entries: tuple[Gres, ...] = ()
    why: str = ""

    @property
    def gpus(self) -> int | None:
        """The number of GPUs; None if it cannot be told."""
        if self.why:
            return None
        whole = sum(one.count for one in self.entries if one.is_gpu)
        return whole or max((one.gpus for one in self.entries), default=0)

    def with_gpus(self, count: int) -> str | None:
        """The text with ``count`` GPUs; None if it does not ask for whole GPUs of one type."""
        found = [one for one in self.entries if one.gpus]
        if len(found) != 1 or not found[0].is_gpu:
            return None
        if found[0].count == count:
            return self.text
        entries = [replace(one, count=count) if one is found[0] else one for one in self.entries]
        if self.where in _GPU_OPTIONS:
            return ",".join(str(one).partition(":")[2] for one in entries)
        if self.where in _TRES_OPTIONS:
            return ",".join(map(_as_tres, entries))
        return ",".join(map(str, entries))


def _as_tres(one: Gres) -> str:
    """``gres/gpu:a100=2``, ``cpu=8``."""
    name = f"{'gres/' if one.gpus else ''}{one.name}"
    return f"{':'.join(part for part in (name, one.kind) if part)}={one.count}"


def asked(gres: str | None, options: Sequence[str]) -> list[Asked]:
    """What a site's ``gres`` and ``options`` ask for."""
    found = [_asked("gres", gres)] if gres else []
    last = dict(option.partition("=")[::2] for option in options)  # of an option given twice sbatch takes the last
    return found + [_asked(name, text) for name, text in last.items() if name in (*_GPU_OPTIONS, *_TRES_OPTIONS)]


def _asked(where: str, text: str) -> Asked:
    try:
        if where in _GPU_OPTIONS:
            if _GPU_OPTIONS[where] is None:
                raise ValueError("how many sockets a job gets is not known here")
            return Asked(where, text, tuple(parse_gpus(text)))
        return Asked(where, text, tuple(parse_gres(text)))
    except ValueError as exc:
        return Asked(where, text, why=str(exc))


def gpus_of(found: Sequence[Asked]) -> int | None:
    """How many GPUs a job gets: several settings that ask for some mean the same ones. None if it cannot be told."""
    known = [one.gpus for one in found]
    return max((count for count in known if count), default=None if None in known else 0)


def options_without_gpus(options: Iterable[str]) -> list[str]:
    """The options for a job that needs no GPU."""
    return [option for option in options if option.partition("=")[0] not in _ABOUT_GPUS]


def options_with(options: Iterable[str], changed: Mapping[str, str]) -> list[str]:
    """The options, those in ``changed`` with these values."""
    names = ((option, option.partition("=")[0]) for option in options)
    return [f"{name}={changed[name]}" if name in changed else option for option, name in names]
