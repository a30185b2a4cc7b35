"""``jobs/*.yaml`` + profile + ``--set`` → ``RunSpec``. Every problem is reported at once, with the file that caused it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cefr_batch.errors import Problem, SpecError
from cefr_batch.levels import PATTERNS, STARTER, Level, RunSpec
from cefr_batch.settings import Layers, reason, settings_folders

# A setting that replaces these others when a later file (or --set) gives it: they describe one thing together.
_REPLACES = {
    "model.name": ("model.alias", "model.revision"),
    "data.source": ("data.train", "data.eval"),
    "data.train": ("data.source",),
    "data.eval": ("data.source",),
}
_SHORTHAND = {"model": "name", "data": "source"}  # `data: starter` is `data: {source: starter}`
_FILES = ("data.source", "data.train", "data.eval", "model.name")

MAX_SWEEP = 1000
_RANGE = re.compile(r"(?P<key>[A-Za-z0-9_.-]+)=(?P<first>[0-9]{1,9})\.\.(?P<last>[0-9]{1,9})")


def load_spec(
    level: str, *, profile: str | None = None, overrides: Iterable[str] = (), jobs: Path | None = None
) -> RunSpec:
    """A level's resolved spec. Raises ``SpecError`` with every problem of every layer."""
    (spec,) = load_specs(level, profile=profile, combinations=[tuple(overrides)], jobs=jobs)
    return spec


def load_specs(
    level: str, *, profile: str | None, combinations: Iterable[Sequence[str]], jobs: Path | None = None
) -> list[RunSpec]:
    """A level's spec for each combination of overrides. Raises ``SpecError`` with every problem of every layer."""
    folder = jobs or jobs_folder()
    files = _JobLayers(RunSpec, _REPLACES, _SHORTHAND, PATTERNS)
    files.add_file(folder / _level_file(folder, level))
    if profile:
        files.add_file(_profile_file(folder, profile))
    specs: list[RunSpec] = []
    problems: list[Problem] = []
    for overrides in combinations:
        layers = files.copy()
        for text in overrides:
            layers.add_override(text)
        layers.expect_level(level)
        try:
            specs.append(layers.resolve())
        except SpecError as exc:
            problems += exc.problems
    if problems:
        raise SpecError(dict.fromkeys(problems))
    return specs


def sweep(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """The overrides of each run: ``training.seed=1..3`` makes three; several ranges, every combination.

    Raises ``SpecError`` for a range that is empty and for more than 1,000 runs.
    """
    choices, problems = [], []
    for text in overrides:
        match = _RANGE.fullmatch(text)
        first, last = (int(match["first"]), int(match["last"])) if match else (0, 0)
        if match and not first <= last < first + MAX_SWEEP:
            problems.append(Problem("--set", f"{text!r} must be a range of 1 to {MAX_SWEEP} values, as in 1..5"))
            continue
        choices.append([f"{match['key']}={n}" for n in range(first, last + 1)] if match else [text])
    combinations = 1
    for choice in choices:
        combinations *= len(choice)
    if combinations > MAX_SWEEP:
        problems.append(Problem("--set", f"these ranges make {combinations} runs of a level; at most {MAX_SWEEP}"))
    if problems:
        raise SpecError(problems)
    return list(product(*choices))


def recorded_spec(record: Any, where: str) -> RunSpec:
    """The spec in a run's ``spec.json``. Raises ``SpecError``, as when another version of cefr-batch wrote it."""
    try:
        return RunSpec.model_validate(record["spec"])
    except ValidationError as exc:
        errors: list[dict[str, Any]] = [dict(error) for error in exc.errors()]
        found = [
            Problem(where, f"{'.'.join(str(p) for p in e['loc'])}: {reason(e, RunSpec, PATTERNS)}") for e in errors
        ]
        raise SpecError(found) from exc
    except (KeyError, TypeError) as exc:
        raise SpecError([Problem(where, "is not the record of a run's settings; was it edited?")]) from exc


def jobs_folder() -> Path:
    """The folder of job files: ``CEFR_BATCH_JOBS``, ``./jobs``, the checkout's, or the one installed with the package."""
    candidates = settings_folders("jobs")
    for folder in candidates:
        if (folder / "base.yaml").is_file():
            return folder
    raise SpecError([Problem("", f"no base.yaml in {' or '.join(str(c) for c in candidates)}")])


def _level_file(folder: Path, level: str) -> str:
    valid = [one.value for one in Level]
    if level.upper() not in valid:
        raise SpecError([Problem("--level", f"{level!r} is not a level; valid: {', '.join(valid)}")])
    return f"{level.lower()}.yaml"


def _profile_file(folder: Path, profile: str) -> Path:
    if profile.endswith((".yaml", ".yml")):
        return Path(profile)
    known = sorted(p.stem for p in (folder / "profiles").glob("*.yaml"))
    if profile not in known:
        valid = f"{', '.join(known)}, or a path to a .yaml file"
        raise SpecError([Problem("--profile", f"{profile!r} is not a profile; valid: {valid}")])
    return folder / "profiles" / f"{profile}.yaml"


class _JobLayers(Layers[RunSpec]):
    def expect_level(self, level: str) -> None:
        named = self.values.get("level")
        if isinstance(named, str) and named.upper() != level.upper():
            where = self.origin["level"]
            self.problems.append(Problem(where, f"level: is {named!r}, but {level.upper()} was asked for"))

    def located(self, key: str, value: Any, folder: Path) -> Any:
        """A file name made absolute; ids and the starter corpus as they are."""
        if key not in _FILES or not isinstance(value, str) or value == STARTER:
            return value
        path = Path(os.path.expanduser(value))
        if key == "model.name" and not (value.startswith((".", "/", "~")) or value.endswith(".gguf")):
            return value
        return str(path if path.is_absolute() else Path(os.path.abspath(folder / path)))  # noqa: PTH100 (keeps symlinks)
