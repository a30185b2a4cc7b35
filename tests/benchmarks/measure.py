"""Run ways of doing one thing in turns; hold what they took beside each other."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile, gettempdir
from typing import Any, TypeVar

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).with_name("scripts")
UNSLOTH = ROOT / ".venv-unsloth" / "bin" / "python"
OURS = "cefr-batch"

T = TypeVar("T")


@dataclass(frozen=True)
class Comparison:
    """A line of the table: each way's seconds by round, what was to be reached, and whether it was."""

    row: str
    what: str
    seconds: Mapping[str, Sequence[float]]
    reach: str
    got: str
    reached: bool
    notes: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        ways = {
            name: {"median": median(values), "least": min(values), "most": max(values), "rounds": len(values)}
            for name, values in self.seconds.items()
        }
        return {
            "row": self.row, "what": self.what, "seconds": ways, "reach": self.reach, "got": self.got,
            "reached": self.reached, "notes": list(self.notes),
        }  # fmt: skip


@dataclass(frozen=True)
class Took:
    """What a process took: seconds, its largest resident memory in MB, and its standard output."""

    seconds: float
    peak_mb: float
    output: str = field(repr=False, default="")

    def result(self) -> Any:
        """The JSON document on the last line that it printed."""
        return json.loads(self.output.strip().splitlines()[-1])


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def ratio(seconds: Mapping[str, Sequence[float]], other: str, ours: str = OURS) -> float:
    """How many times as fast as another way ours is, by the medians."""
    return median(seconds[other]) / median(seconds[ours])


def fastest(seconds: Mapping[str, Sequence[float]]) -> str:
    """The other way with the smallest median."""
    return min((name for name in seconds if name != OURS), key=lambda name: median(seconds[name]))


def in_turns(rounds: int, ways: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Call each way once a round, every other round in reverse, so that all meet the same state of the machine."""
    took: dict[str, list[T]] = {name: [] for name in ways}
    for number in range(rounds):
        order = list(ways) if number % 2 == 0 else list(ways)[::-1]
        for name in order:
            took[name].append(ways[name]())
    return took


def process(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> Took:
    """Run a command to its end. Raises ``RuntimeError`` with what it printed if it fails."""
    words = [str(word) for word in command]
    with TemporaryFile() as out, TemporaryFile() as err, NamedTemporaryFile() as report:
        subprocess.run(
            [sys.executable, "-I", SCRIPTS / "measured.py", report.name, *words],
            check=True, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=ROOT, env={**os.environ, **(env or {})},
        )  # fmt: skip
        seconds, peak_kb, status = json.load(report)
        out.seek(0)
        err.seek(0)
        output, errors = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if status:
        raise RuntimeError(f"{' '.join(words)}\n{output[-2000:]}{errors[-4000:]}")
    return Took(seconds, peak_kb / 1024, output)


def script(name: str, *arguments: str | Path, python: Path | str = sys.executable) -> Took:
    """Run one of the programs in ``scripts/``, with Unsloth's environment if told so."""
    quiet = {"UNSLOTH_DISABLE_STATISTICS": "1", "UNSLOTH_COMPILE_LOCATION": f"{gettempdir()}/unsloth_compiled_cache"}
    return process([python, SCRIPTS / name, *arguments], env=quiet)


def peaks(took: Mapping[str, Sequence[Took]]) -> str:
    return ", ".join(f"{name} {max(one.peak_mb for one in several):,.0f} MB" for name, several in took.items())


def seconds_of(took: Mapping[str, Sequence[Took]]) -> dict[str, list[float]]:
    return {name: [one.seconds for one in several] for name, several in took.items()}
