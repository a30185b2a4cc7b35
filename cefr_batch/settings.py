"""Settings from YAML files and ``KEY=VALUE`` texts: layer over layer, checked by a model, every problem at once.

What jobs and sites share. Each value remembers the place that gave it, so that an error can name it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from cefr_batch.errors import Problem, SpecError

if TYPE_CHECKING:
    from typing_extensions import Self

M = TypeVar("M", bound=BaseModel)


def settings_folders(kind: str) -> list[Path]:
    """Where files of this kind (``jobs``, ``slurm`` …) may be: ``CEFR_BATCH_<KIND>`` alone where it is set, else the folder
    of that name here, the checkout's, and the one installed with the package."""
    own = os.environ.get(f"CEFR_BATCH_{kind.upper()}")
    package = Path(__file__).parent
    return [Path(own)] if own else [Path(kind), package.parent / kind, package / "shipped" / kind]


@dataclass
class Layers(Generic[M]):
    """Settings flattened to dotted keys, each with the place it came from; later layers win.

    ``replaces``: a key that, when given, drops these others; ``shorthand``: a part that may be given as the value of
    its one key; ``patterns``: the model's regular expressions, in words; ``parents``: files that can be extended from
    elsewhere, by name.
    """

    model: type[M]
    replaces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shorthand: Mapping[str, str] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)
    parents: Mapping[str, Path] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)  # in the order in which they were read
    problems: list[Problem] = field(default_factory=list)

    def copy(self) -> Self:
        """These layers, for more on top of them."""
        return replace(
            self,
            values=dict(self.values),
            origin=dict(self.origin),
            places=list(self.places),
            problems=list(self.problems),
        )

    def add_file(self, path: Path, chain: tuple[Path, ...] = ()) -> None:
        """Read a file, and first the one that it ``extends``."""
        if path in chain:
            self.problems.append(Problem(str(chain[-1]), f"extends: {path.name} extends itself"))
            return
        tree = self._read(path)
        if tree is None:
            return
        parent = tree.pop("extends", None)
        if isinstance(parent, str) and re.fullmatch(r"[A-Za-z0-9_-]+", parent):
            beside = path.parent / f"{parent}.yaml"
            self.add_file(beside if beside.is_file() else self.parents.get(parent, beside), (*chain, path))
        elif parent is not None:
            self.problems.append(Problem(str(path), f"extends: must be the name of a file beside it (got {parent!r})"))
        self._merge(tree, str(path), path.parent)

    def add_override(self, text: str) -> None:
        """Read a ``KEY=VALUE``."""
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

    def resolve(self) -> M:
        """The settings, checked. Raises ``SpecError`` with every problem of every layer."""
        try:
            resolved = self.model.model_validate(_unflatten(self.values))
        except ValidationError as exc:
            self.problems += [self._explain(dict(error)) for error in exc.errors()]
        if self.problems:
            raise SpecError(self.problems)
        return resolved

    def located(self, key: str, value: Any, folder: Path) -> Any:
        """A value as it is kept, given the folder of the file that gave it: here is where paths become absolute."""
        return value

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

    def _merge(self, tree: Mapping[str, Any], origin: str, folder: Path) -> None:
        new = dict(self._flatten(tree))
        for key in new:
            for other in self.replaces.get(key, ()):
                if other not in new:
                    self._put(other, None, origin)
        for key, value in new.items():
            self._put(key, self.located(key, value, folder), origin)

    def _flatten(self, tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in tree.items():
            key = f"{prefix}{name}"
            if key in self.shorthand and isinstance(value, str):
                yield f"{key}.{self.shorthand[key]}", value
            elif isinstance(value, dict) and value and _is_part(self.model, key):
                yield from self._flatten(value, f"{key}.")
            else:
                yield key, value

    def _put(self, key: str, value: Any, origin: str) -> None:
        for old in [k for k in self.values if k.startswith(f"{key}.") or key.startswith(f"{k}.")]:
            del self.values[old]
        self.values[key] = value
        self.origin[key] = origin
        if origin not in self.places:
            self.places.append(origin)

    def _explain(self, error: dict[str, Any]) -> Problem:
        key = ".".join(str(p) for p in error["loc"])
        if error["type"] == "value_error":  # a rule over several keys, which names its own
            what = str(error["ctx"]["error"])
            return Problem(self._where(what.partition(":")[0]), what)
        return Problem(self._where(key), f"{key}: {reason(error, self.model, self.patterns)}")

    def _where(self, key: str) -> str:
        """The place that gave this key; for a whole part, or a part of a value, the last one that gave any of it."""
        near = [k for k in self.origin if k == key or k.startswith(f"{key}.") or key.startswith(f"{k}.")]
        given = [self.origin[k] for k in near] or self.places[:1]
        return max(given, key=self.places.index, default="")


def reason(error: Mapping[str, Any], model: type[BaseModel], patterns: Mapping[str, str]) -> str:
    """One of pydantic's errors in our words, with what would be valid."""
    kind, value = error["type"], error.get("input")
    loc = tuple(p for p in error["loc"] if isinstance(p, str))
    if kind == "missing":
        return "missing"
    if kind == "extra_forbidden":
        valid = _keys_at(model, loc[:-1])
        close = difflib.get_close_matches(loc[-1], valid, n=1) if loc else []
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"unknown key{hint}; valid keys here: {', '.join(valid)}"
    if kind in ("literal_error", "enum"):
        return f"must be one of {error['ctx']['expected'].replace(' or ', ', ')} (got {value!r})"
    if kind == "string_pattern_mismatch":
        return f"must be {patterns[error['ctx']['pattern']]} (got {value!r})"
    message = str(error["msg"]).removeprefix("Input should be ").removeprefix("a valid ")
    names = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
    return f"must be {names.get(message, message)} (got {value!r})"


def _is_part(model: type[BaseModel], key: str) -> bool:
    """Whether a mapping at this key is a part of its own, or a key that no model knows; else it is a value."""
    node: type[BaseModel] | None = model
    for name in key.split("."):
        if node is None or name not in node.model_fields:
            return True
        annotation = node.model_fields[name].annotation
        node = _model_of(annotation)
        if node is None:
            return get_origin(annotation) is not dict
    return True


def _keys_at(model: type[BaseModel], loc: tuple[str, ...]) -> list[str]:
    for part in loc:
        inner = _model_of(model.model_fields[part].annotation) if part in model.model_fields else None
        if inner is None:
            break
        model = inner
    return list(model.model_fields)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Annotated, Union, UnionType, list):
        return next((m for a in get_args(annotation) if (m := _model_of(a))), None)
    return None


def _unflatten(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


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
