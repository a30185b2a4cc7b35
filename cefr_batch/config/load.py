"""``jobs/*.yaml`` + profile + ``--set`` → ``RunSpec``. Every problem is reported at once, with the file that caused it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from cefr_batch.config.layers import Layers, reason, settings_files, settings_folders
from cefr_batch.config.schema import PATTERNS, STARTERS, Level, RunSpec
from cefr_batch.errors import Problem, SpecError

# A setting that replaces these others when a later file (or --set) gives it: they describe one thing together.
_REPLACES = {
    "model.name": ("model.alias", "model.revision"),
    "data.source": ("data.train", "data.eval", "data.columns", "data.sheet"),
    "data.train": ("data.source", "data.columns", "data.sheet"),
    "data.eval": ("data.source", "data.columns", "data.sheet"),
}
_SHORTHAND = {  # `data: starter` is `data: {source: starter}`
    "model": "name",
    "data": "source",
    "notify": "variable",
}
_FILES = ("data.source", "data.train", "data.eval", "model.name")


def load_spec(level: str, *, profile: str | None = None, overrides: Iterable[str] = ()) -> RunSpec:
    """A level's resolved spec. Raises ``SpecError`` with every problem of every layer."""
    (spec,) = load_specs(level, profile=profile, combinations=[tuple(overrides)])
    return spec


def load_specs(level: str, *, profile: str | None, combinations: Iterable[Sequence[str]]) -> list[RunSpec]:
    """A level's spec for each combination of overrides. Raises ``SpecError`` with every problem of every layer."""
    files = _layers(level, profile)
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


@dataclass(frozen=True)
class GivenSetting:
    """A setting's value, and the file (or ``--set``) that gave it."""

    key: str
    value: Any
    origin: str


def given_settings(level: str, *, profile: str | None = None, overrides: Iterable[str] = ()) -> list[GivenSetting]:
    """A level's settings as ``load_spec`` resolves them, each with where it comes from. Raises ``SpecError``."""
    layers = _layers(level, profile)
    for text in overrides:
        layers.add_override(text)
    layers.expect_level(level)
    layers.resolve()
    return [GivenSetting(key, value, layers.origin[key]) for key, value in layers.values.items()]


def changed_spec(settings: Mapping[str, object], overrides: Iterable[str]) -> RunSpec:
    """Recorded settings with overrides on top. Raises ``SpecError`` with every problem."""
    layers = _job_layers()
    layers.add_settings(settings, "recorded settings")
    for text in overrides:
        layers.add_override(text)
    return layers.resolve()


def recorded_spec(settings: Mapping[str, object], where: str) -> RunSpec:
    """The settings in a run's ``spec.json`` as a spec. Raises ``SpecError``, as when another version of cefr-batch wrote
    them."""
    try:
        spec = RunSpec.model_validate(settings)
    except ValidationError as exc:
        errors: list[dict[str, Any]] = [dict(error) for error in exc.errors()]
        found = [
            Problem(where, f"{'.'.join(str(p) for p in e['loc'])}: {reason(e, RunSpec, PATTERNS)}") for e in errors
        ]
        raise SpecError(found) from exc
    if broken := [Problem(where, rule) for rule in spec.broken_rules()]:
        raise SpecError(broken)
    return spec


def comparable(settings: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Recorded settings as this version would record them, so that runs of several versions can be compared: a setting that
    came later has the value that stood for it before. Settings that are no valid spec now stay as they are."""
    try:
        return RunSpec.model_validate(settings).model_dump(mode="json")
    except ValidationError:
        return settings


def spec_files(level: str, profile: str | None) -> list[Path]:
    """The files that a level's settings come from, later ones on top: the level's, then the profile's.

    Each is looked up in ``./jobs`` first, then in the checkout, then among those that the package ships; or in
    ``CEFR_BATCH_JOBS`` alone where that is set. Raises ``SpecError`` for a level or profile that does not exist.
    """
    files = settings_files("jobs")
    if "base" not in files:
        folders = " or ".join(map(str, settings_folders("jobs")))
        remedy = "set CEFR_BATCH_JOBS to a folder that has one, or unset it"
        raise SpecError([Problem("", f"there is no base.yaml in {folders}; {remedy}")])
    valid = [one.value for one in Level]
    if level.upper() not in valid:
        raise SpecError([Problem("--level", f"{level!r} is not a level; valid: {', '.join(valid)}")])
    if level.lower() not in files:
        folder, known = files["base"].parent, level.upper()
        remedy = f"create it (`cefr-batch init --level {known}` writes one to copy), or unset CEFR_BATCH_JOBS"
        raise SpecError([Problem("--level", f"there is no {level.lower()}.yaml in {folder}; {remedy}")])
    return [files[level.lower()], *([_profile_file(profile)] if profile else [])]


def _layers(level: str, profile: str | None) -> _JobLayers:
    """The settings of a level's files, without overrides. Raises ``SpecError`` for a file that does not exist."""
    layers = _job_layers(settings_files("jobs"))
    for path in spec_files(level, profile):
        layers.add_file(path)
    return layers


def _profile_file(profile: str) -> Path:
    if profile.endswith((".yaml", ".yml")):
        return Path(profile)
    known = settings_files("jobs", "profiles")
    if profile not in known:
        valid = f"{', '.join(sorted(known))}, or a path to a .yaml file"
        raise SpecError([Problem("--profile", f"{profile!r} is not a profile; valid: {valid}")])
    return known[profile]


def _job_layers(parents: Mapping[str, Path] | None = None) -> _JobLayers:
    return _JobLayers(RunSpec, _REPLACES, _SHORTHAND, PATTERNS, parents or {}, rules=RunSpec.broken_rules)


class _JobLayers(Layers[RunSpec]):
    def expect_level(self, level: str) -> None:
        named = self.values.get("level")
        if isinstance(named, str) and named.upper() != level.upper():
            where, remedy = self.origin["level"], "correct or remove this setting"
            self.problems.append(
                Problem(where, f"sets level: {named!r}, but is used for level {level.upper()}; {remedy}")
            )

    def located(self, key: str, value: Any, folder: Path) -> Any:
        """A file name made absolute; ids and the starter corpus as they are."""
        if key not in _FILES or not isinstance(value, str) or value in STARTERS or "\0" in value:
            return value
        path = Path(os.path.expanduser(value))
        if key == "model.name" and not (value.startswith((".", "/", "~")) or value.endswith(".gguf")):
            return value
        return str(path if path.is_absolute() else Path(os.path.abspath(folder / path)))  # noqa: PTH100 (keeps symlinks)
