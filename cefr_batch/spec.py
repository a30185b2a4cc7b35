"""``jobs/*.yaml`` + profile + ``--set`` → ``RunSpec``. Every problem is reported at once, with the file that caused it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from cefr_batch.errors import Problem, SpecError
from cefr_batch.levels import PATTERNS, STARTER, Level, RunSpec

# A setting that replaces these others when a later file (or --set) gives it: they describe one thing together.
_REPLACES = {
    "model.name": ("model.alias", "model.revision"),
    "data.source": ("data.train", "data.eval"),
    "data.train": ("data.source",),
    "data.eval": ("data.source",),
}
_SHORTHAND = {"model": "name", "data": "source"}  # `data: starter` is `data: {source: starter}`
_FILES = ("data.source", "data.train", "data.eval", "model.name")


def load_spec(
    level: str, *, profile: str | None = None, overrides: Iterable[str] = (), jobs: Path | None = None
) -> RunSpec:
    """A level's resolved spec. Raises ``SpecError`` with every problem of every layer."""
    folder = jobs or jobs_folder()
    layers = _Layers()
    level_file = _level_file(folder, level)
    layers.add_file(folder / level_file)
    if profile:
        layers.add_file(_profile_file(folder, profile))
    for text in overrides:
        layers.add_override(text)
    layers.expect_level(level)
    return layers.resolve()


def recorded_spec(record: Any, where: str) -> RunSpec:
    """The spec in a run's ``spec.json``. Raises ``SpecError``, as when another version of cefr-batch wrote it."""
    try:
        return RunSpec.model_validate(record["spec"])
    except ValidationError as exc:
        found = [Problem(where, f"{'.'.join(map(str, e['loc']))}: {_reason(dict(e))}") for e in exc.errors()]
        raise SpecError(found) from exc
    except (KeyError, TypeError) as exc:
        raise SpecError([Problem(where, "is not the record of a run's settings; was it edited?")]) from exc


def jobs_folder() -> Path:
    """The folder of job files: ``CEFR_BATCH_JOBS``, ``./jobs``, the checkout's, or the one installed with the package."""
    own = os.environ.get("CEFR_BATCH_JOBS")
    package = Path(__file__).parent
    candidates = [Path(own)] if own else [Path("jobs"), package.parent / "jobs", package / "shipped" / "jobs"]
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
        raise SpecError(
            [
                Problem(
                    "--profile", f"{profile!r} is not a profile; valid: {', '.join(known)}, or a path to a .yaml file"
                )
            ]
        )
    return folder / "profiles" / f"{profile}.yaml"


@dataclass
class _Layers:
    """Settings flattened to dotted keys, each with the place it came from; later layers win."""

    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)  # in the order in which they were read
    problems: list[Problem] = field(default_factory=list)

    def add_file(self, path: Path, chain: tuple[Path, ...] = ()) -> None:
        if path in chain:
            self.problems.append(Problem(str(chain[-1]), f"extends: {path.name} extends itself"))
            return
        tree = self._read(path)
        if tree is None:
            return
        parent = tree.pop("extends", None)
        if isinstance(parent, str) and re.fullmatch(r"[A-Za-z0-9_-]+", parent):
            self.add_file(path.parent / f"{parent}.yaml", (*chain, path))
        elif parent is not None:
            self.problems.append(Problem(str(path), f"extends: must be the name of a file beside it (got {parent!r})"))
        self._merge(tree, str(path), path.parent)

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
        except FileNotFoundError:
            self.problems.append(Problem(str(path), "no such file"))
        except (OSError, UnicodeDecodeError) as exc:
            self.problems.append(Problem(str(path), f"cannot be read: {exc}"))
        except yaml.YAMLError as exc:
            self.problems.append(Problem(str(path), _yaml_problem(exc)))
        else:
            if isinstance(tree, dict) and all(isinstance(k, str) for k in tree):
                return tree
            if tree is not None:
                self.problems.append(Problem(str(path), "must be a mapping of settings (key: value)"))
        return None

    def add_override(self, text: str) -> None:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9_.-]+", key):
            self.problems.append(Problem("--set", f"{text!r} must look like training.epochs=2"))
            return
        try:
            tree: Any = yaml.load(value, Loader=_Loader)  # noqa: S506 (a SafeLoader)
        except yaml.YAMLError as exc:
            self.problems.append(Problem(f"--set {key}", _yaml_problem(exc)))
            return
        for part in reversed(key.split(".")):
            tree = {part: tree}
        self._merge(tree, "--set", Path())

    def _merge(self, tree: Mapping[str, Any], origin: str, folder: Path) -> None:
        new = dict(_flatten(tree))
        for key in new:
            for other in _REPLACES.get(key, ()):
                if other not in new:
                    self._put(other, None, origin)
        for key, value in new.items():
            self._put(key, _located(key, value, folder), origin)

    def _put(self, key: str, value: Any, origin: str) -> None:
        for old in [k for k in self.values if k.startswith(f"{key}.") or key.startswith(f"{k}.")]:
            del self.values[old]
        self.values[key] = value
        self.origin[key] = origin
        if origin not in self.places:
            self.places.append(origin)

    def expect_level(self, level: str) -> None:
        named = self.values.get("level")
        if isinstance(named, str) and named.upper() != level.upper():
            where = self.origin["level"]
            self.problems.append(Problem(where, f"level: is {named!r}, but {level.upper()} was asked for"))

    def resolve(self) -> RunSpec:
        try:
            spec = RunSpec.model_validate(_unflatten(self.values))
        except ValidationError as exc:
            self.problems += [self._explain(dict(error)) for error in exc.errors()]
        if self.problems:
            raise SpecError(self.problems)
        return spec

    def _explain(self, error: dict[str, Any]) -> Problem:
        key = ".".join(str(p) for p in error["loc"])
        if error["type"] == "value_error":  # a rule over several keys, which names its own
            what = str(error["ctx"]["error"])
            return Problem(self._where(what.partition(":")[0]), what)
        return Problem(self._where(key), f"{key}: {_reason(error)}")

    def _where(self, key: str) -> str:
        """The place that gave this key; for a whole part, or a part of a value, the last one that gave any of it."""
        near = [k for k in self.origin if k == key or k.startswith(f"{key}.") or key.startswith(f"{k}.")]
        given = [self.origin[k] for k in near] or self.places[:1]
        return max(given, key=self.places.index, default="")


def _reason(error: Mapping[str, Any]) -> str:
    kind, value = error["type"], error.get("input")
    loc = tuple(p for p in error["loc"] if isinstance(p, str))
    if kind == "missing":
        return "missing"
    if kind == "extra_forbidden":
        valid = _keys_at(loc[:-1])
        close = difflib.get_close_matches(loc[-1], valid, n=1) if loc else []
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"unknown key{hint}; valid keys here: {', '.join(valid)}"
    if kind in ("literal_error", "enum"):
        return f"must be one of {error['ctx']['expected'].replace(' or ', ', ')} (got {value!r})"
    if kind == "string_pattern_mismatch":
        return f"must be {PATTERNS[error['ctx']['pattern']]} (got {value!r})"
    message = str(error["msg"]).removeprefix("Input should be ").removeprefix("a valid ")
    names = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
    return f"must be {names.get(message, message)} (got {value!r})"


def _keys_at(loc: tuple[str, ...]) -> list[str]:
    model: type[BaseModel] = RunSpec
    for part in loc:
        inner = _model_of(model.model_fields[part].annotation) if part in model.model_fields else None
        if inner is None:
            break
        model = inner
    return list(model.model_fields)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return next((m for a in get_args(annotation) if (m := _model_of(a))), None)
    return None


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if key in _SHORTHAND and isinstance(value, str):
            yield f"{key}.{_SHORTHAND[key]}", value
        elif isinstance(value, dict) and value:
            yield from _flatten(value, f"{key}.")
        else:
            yield key, value


def _unflatten(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def _located(key: str, value: Any, folder: Path) -> Any:
    """A file name made absolute from the folder of the file that names it; ids and the starter corpus as they are."""
    if key not in _FILES or not isinstance(value, str) or value == STARTER:
        return value
    path = Path(value).expanduser()
    if key == "model.name" and not (value.startswith((".", "/", "~")) or value.endswith(".gguf")):
        return value
    return str(path if path.is_absolute() else Path(os.path.abspath(folder / path)))  # noqa: PTH100 (keeps symlinks)


def _yaml_problem(exc: yaml.YAMLError) -> str:
    mark = getattr(exc, "problem_mark", None)
    line = f"line {mark.line + 1}: " if mark else ""
    return f"{line}not valid YAML: {getattr(exc, 'problem', None) or exc}"


class _Loader(yaml.SafeLoader):
    """YAML where ``2e-4`` is a number (as in YAML 1.2), a key that stands twice is an error, and no aliases."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not used here", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
