"""Settings from YAML files and ``KEY=VALUE`` texts: layer over layer, checked by a model, every problem at once.

What jobs and sites share. Each value remembers the place that gave it, so that an error can name it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from cefr_batch.errors import Problem, SpecError, cut_short

if TYPE_CHECKING:
    from typing_extensions import Self

_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){0,9}")  # of a setting: data.source
_TYPES = {  # pydantic's kinds of errors about a value's type, which are strict ones here
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
}
_SHOWN = 80  # characters of a value in an error
_EXAMPLE = "write it as KEY=VALUE, for example training.epochs=2"
_QUOTED = "if the value is text, put it in quotes: --set 'KEY=\"VALUE\"'"

M = TypeVar("M", bound=BaseModel)


def settings_folders(kind: str) -> list[Path]:
    """Where files of this kind (``jobs``, ``slurm`` …) may be: ``CEFR_BATCH_<KIND>`` alone where it is set, else the folder
    of that name here, the checkout's, and the one installed with the package."""
    own = os.environ.get(f"CEFR_BATCH_{kind.upper()}")
    package = Path(__file__).parents[1]
    return [Path(own)] if own else [Path(kind), package.parent / kind, package / "shipped" / kind]


def settings_files(kind: str, subfolder: str = "") -> dict[str, Path]:
    """The YAML files of this kind by name (``b1``), each from the first of its folders that has it: a file of one's own
    in ``./jobs`` stands in for the one that ships with the package, which is still found for all other names."""
    return {name: paths[0] for name, paths in all_settings_files(kind, subfolder).items()}


def all_settings_files(kind: str, subfolder: str = "") -> dict[str, list[Path]]:
    """As ``settings_files``, sorted by name, each with those that it stands in for after it."""
    found: dict[str, dict[Path, Path]] = {}  # by what the path resolves to: this folder may be the checkout
    for folder in settings_folders(kind):
        for path in (folder / subfolder).glob("*.yaml"):
            found.setdefault(path.stem, {}).setdefault(path.resolve(), path)
    return {name: list(found[name].values()) for name in sorted(found)}


@dataclass
class Layers(Generic[M]):
    """Settings flattened to dotted keys, each with the place it came from; later layers win.

    ``replaces``: a key that, when given, drops these others; ``shorthand``: a part that may be given as the value of
    its one key; ``patterns``: the model's regular expressions, in words; ``parents``: files that can be extended from
    elsewhere, by name (``settings_files``); ``renamed``: former dotted key → present key. A former key is still read, as
    if the present one had been written, and ``warnings`` then says so, once for each file; both in one file are a problem.
    ``rules``: what is wrong with settings of which each is well-formed, each beginning with the key that it is about.
    """

    model: type[M]
    replaces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shorthand: Mapping[str, str] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)
    parents: Mapping[str, Path] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    rules: Callable[[M], Iterable[str]] = lambda settings: ()
    values: dict[str, Any] = field(default_factory=dict)
    first: dict[str, Any] = field(default_factory=dict)  # each key's value in the first layer that has it
    origin: dict[str, str] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)  # in the order in which they were read
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unread: bool = False  # whether a file could not be read: then nothing is said to be missing

    def copy(self) -> Self:
        """These layers, for more on top of them."""
        return replace(
            self,
            values=dict(self.values),
            first=dict(self.first),
            origin=dict(self.origin),
            places=list(self.places),
            problems=list(self.problems),
            warnings=list(self.warnings),
        )

    def add_file(self, path: Path, chain: tuple[Path, ...] = ()) -> None:
        """Read a file, and first the one that it ``extends``."""
        if path in chain:
            what = f"{path.name} extends itself, directly or through other files; remove this line"
            self._give_up(chain[-1], f"extends: {what}")
            return
        tree = self._read(path, chain[-1] if chain else None)
        if tree is None:
            return
        parent = tree.pop("extends", None)
        if isinstance(parent, str) and re.fullmatch(r"[A-Za-z0-9_-]+", parent):
            self.add_file(self._parent(path, parent), (*chain, path))
        elif parent is not None:
            what = "must be the name of a file in the same folder, without a path and without .yaml"
            self._give_up(path, f"extends: {what} (got {_shown(parent)})")
        self._merge(tree, str(path), path.parent)

    def _parent(self, path: Path, name: str) -> Path:
        """The file that ``path`` extends: found by its name if ``path`` was, so that a file of one's own stands in for the
        shipped one here too; else the one beside it."""
        beside = path.parent / f"{name}.yaml"
        if path in self.parents.values() or not beside.is_file():
            return self.parents.get(name, beside)
        return beside

    def add_settings(self, settings: Mapping[str, object], origin: str) -> None:
        """Take settings that were read elsewhere."""
        self._merge(settings, origin, Path())

    def add_override(self, text: str) -> None:
        """Read a ``KEY=VALUE``."""
        key, equals, value = text.partition("=")
        if not equals and _KEY.fullmatch(text):
            self.problems.append(Problem("--set", f"{_shown(text)} has no value; {_EXAMPLE}"))
            return
        if not equals or not _KEY.fullmatch(key):
            self.problems.append(Problem("--set", f"{_shown(text)} is not a setting; {_EXAMPLE}"))
            return
        try:
            tree = _parse_yaml(value)
        except yaml.YAMLError as exc:
            self.problems.append(Problem(f"--set {key}", f"{_yaml_problem(exc)}; {_QUOTED}"))
            return
        for part in reversed(key.split(".")):
            tree = {part: tree}
        self._merge(tree, "--set", Path())

    def resolve(self) -> M:
        """The settings, checked. Raises ``SpecError`` with every problem of every layer."""
        found = self.read()
        if self.problems or found is None:
            raise SpecError(self.problems)
        return found

    def read(self) -> M | None:
        """The settings, whose problems are all in ``problems`` then; None if a value of them cannot be used. Keys that are
        not known are left out, and rules may be broken."""
        readable = not self.problems
        found: M | None
        try:
            found = self.model.model_validate(_unflatten(self.values))
        except ValidationError as exc:
            errors = [dict(error) for error in exc.errors()]
            self.problems += [self._explain(one) for one in errors if not (self.unread and one["type"] == "missing")]
            readable = readable and all(one["type"] == "extra_forbidden" for one in errors)
            found = self._repaired([_key(one) for one in errors])
        if found is not None:
            self.problems += [Problem(self._where(rule.partition(":")[0]), rule) for rule in self.rules(found)]
        return found if readable else None

    def _repaired(self, wrong: Iterable[str]) -> M | None:
        """The settings with the first layer's value for each key that is wrong, so that rules about the others can be
        tried; None if that does not help."""
        touched = {key for key in self.values for one in wrong if _touches(key, one)}
        former = {key: self.first[key] for key in touched if self.first[key] != self.values[key]}
        values = {key: value for key, value in self.values.items() if key not in touched} | former
        try:
            return self.model.model_validate(_unflatten(values))
        except ValidationError:
            return None

    def located(self, key: str, value: Any, folder: Path) -> Any:
        """A value as it is kept, given the folder of the file that gave it: here is where paths become absolute."""
        return value

    def _read(self, path: Path, extended_by: Path | None) -> dict[str, Any] | None:
        try:
            tree = _parse_yaml(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if extended_by:
                self._give_up(extended_by, f"extends: {path} does not exist; correct the name")
            else:
                self._give_up(path, "no such file")
        except (OSError, ValueError) as exc:
            self._give_up(path, f"cannot be read: {exc}")
        except yaml.YAMLError as exc:
            mark = getattr(exc, "problem_mark", None)
            line = f"line {mark.line + 1}: " if mark else ""
            self._give_up(path, line + _yaml_problem(exc))
        else:
            if isinstance(tree, dict) and all(isinstance(k, str) for k in tree):
                return tree
            if tree is not None:
                self._give_up(path, "must be a mapping of settings (key: value)")
        return None

    def _give_up(self, path: Path, what: str) -> None:
        """Note a problem for which a file, or the one that it extends, gives no settings."""
        self.problems.append(Problem(str(path), what))
        self.unread = True

    def _merge(self, tree: Mapping[str, Any], origin: str, folder: Path) -> None:
        new = self._with_present_keys(dict(self._flatten(tree)), origin)
        for key in new:
            for other in self.replaces.get(key, ()):
                if other not in new:
                    self._put(other, None, origin)
        for key, value in new.items():
            self._put(key, self.located(key, value, folder), origin)

    def _with_present_keys(self, given: Mapping[str, Any], origin: str) -> dict[str, Any]:
        """What was given, with ``renamed`` keys under their present names."""
        new = {}
        for key, value in given.items():
            present = self.renamed.get(key, key)
            if present != key and present in given:
                self.problems.append(Problem(origin, f"{key} was renamed to {present}, and both are set; remove {key}"))
            elif present != key:
                self.warnings.append(f"{origin}: {key} is deprecated, use {present} instead")
            new[present] = given.get(present, value)
        return new

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
        self.first.setdefault(key, value)
        self.origin[key] = origin
        if origin not in self.places:
            self.places.append(origin)

    def _explain(self, error: dict[str, Any]) -> Problem:
        key = _key(error)
        if error["type"] == "value_error":  # said by a check of ours, which names the key
            what = str(error["ctx"]["error"])
            return Problem(self._where(what.partition(":")[0]), what)
        return Problem(self._where(key), f"{key}: {reason(error, self.model, self.patterns)}")

    def _where(self, key: str) -> str:
        """The place that gave this key; for a whole part, or a part of a value, the last one that gave any of it."""
        near = [k for k in self.origin if _touches(k, key)]
        given = [self.origin[k] for k in near] or self.places[:1]
        return max(given, key=self.places.index, default="")


def _key(error: Mapping[str, Any]) -> str:
    """The dotted key that one of pydantic's errors is about."""
    return ".".join(str(part) for part in error["loc"])


def _touches(key: str, other: str) -> bool:
    """Whether two dotted keys are the same, or one is a part of the other."""
    return key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")


def reason(error: Mapping[str, Any], model: type[BaseModel], patterns: Mapping[str, str]) -> str:
    """One of pydantic's errors in our words, with what would be valid."""
    kind, value = error["type"], error.get("input")
    loc = tuple(p for p in error["loc"] if isinstance(p, str))
    if kind == "missing":
        return "missing"
    if kind == "extra_forbidden":
        valid = _keys_at(model, loc[:-1])
        elsewhere = [key for key in _all_keys(model) if loc and key.rpartition(".")[2] == loc[-1]]
        close = elsewhere[:1] or (difflib.get_close_matches(loc[-1], valid, n=1) if loc else [])
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"unknown key{hint}; valid keys here: {', '.join(valid)}"
    if kind in ("literal_error", "enum"):
        return f"must be one of {error['ctx']['expected'].replace(' or ', ', ')} (got {_shown(value)})"
    if kind == "string_pattern_mismatch":
        return f"must be {patterns[error['ctx']['pattern']]} (got {_shown(value)})"
    if kind == "string_unicode":  # a file name in another encoding
        return "must be text in UTF-8; if it is a file's name, rename the file"
    if kind in ("too_short", "string_too_short") and error["ctx"]["min_length"] == 1:
        return f"must not be empty (got {_shown(value)})"
    if kind == "string_type" and isinstance(value, (int, float, date)):
        form = next((patterns[one] for one in _patterns_at(model, loc) if one in patterns), "")
        why = "without quotes, YAML reads 1:30:00 as a number, and yes as true"
        return f"must be text in quotes{': ' if form else ''}{form} (got {_shown(value)}; {why})"
    wanted = _TYPES.get(kind, str(error["msg"]).removeprefix("Input should be "))
    return f"must be {wanted} (got {_shown(value)})"


def _patterns_at(model: type[BaseModel], loc: tuple[str, ...]) -> Iterator[str]:
    """The regular expressions that the text at this place may have to match."""
    field_ = model.model_fields.get(loc[0]) if loc else None
    if field_ and (inner := _model_of(field_.annotation)):
        yield from _patterns_at(inner, loc[1:])
    elif field_:
        yield from _patterns_of(field_.annotation, field_.metadata)


def _patterns_of(annotation: Any, metadata: Iterable[Any]) -> Iterator[str]:
    """Those of a type, or of what is in it; of a mapping those of its values."""
    yield from (one.pattern for one in metadata if getattr(one, "pattern", None))
    inner = get_args(annotation)
    for one in inner[-1:] if get_origin(annotation) is dict else inner:
        yield from _patterns_of(one, [more for given in getattr(one, "__metadata__", ()) for more in given.metadata])


def _shown(value: Any) -> str:
    """A value as an error shows it."""
    return cut_short(repr(value), _SHOWN)


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


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a model."""
    for name, field_ in model.model_fields.items():
        yield f"{prefix}{name}"
        inner = _model_of(field_.annotation)
        if inner:
            yield from _all_keys(inner, f"{prefix}{name}.")


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
    return f"not valid YAML: {getattr(exc, 'problem', None) or exc}"


def _parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises ``yaml.YAMLError``."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except RecursionError as exc:
        raise yaml.YAMLError("it is nested too deeply") from exc


class _Loader(yaml.SafeLoader):
    """YAML where ``2e-4`` is a number (as in YAML 1.2), a key that stands twice is an error, and no aliases.

    A value that cannot be what it looks like, such as the date 2026-13-45, is an error too, with its key.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._keys: dict[yaml.Node, str] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not supported", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is set twice", problem_mark=key.start_mark)
            seen.add(key.value)
            self._keys[value] = key.value
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError) as exc:  # of PyYAML's own conversions
            key = f"{self._keys[node]}: " if node in self._keys else ""
            problem = f"{key}{_shown(node.value)} is not a valid {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from exc


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
