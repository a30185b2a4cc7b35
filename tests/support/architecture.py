"""What the modules of a package import, and what is wrong with it: read from the source, nothing is imported.

An import counts wherever it stands: at the top, in a function, or as a module's name in a string, as in a registry or after
``python -m`` (``"package.layer.module"``). Those under ``if TYPE_CHECKING`` count too: a type is a dependency.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """``module`` imports ``imported``; both dotted, with the package's name."""

    module: str
    imported: str


@dataclass(frozen=True)
class Package:
    """A package's folder, its source files by dotted module name."""

    folder: Path
    modules: dict[str, Path]

    @classmethod
    def read(cls, folder: Path) -> Package:
        modules = {}
        for path in sorted(folder.rglob("*.py")):
            parts = (folder.name, *path.relative_to(folder).with_suffix("").parts)
            modules[".".join(part for part in parts if part != "__init__")] = path
        return cls(folder, modules)

    def layer(self, module: str) -> str:
        """The part of the package that a module belongs to: ``cefr_batch.store.s3`` → ``store``; of the root its name."""
        return module.partition(".")[2].partition(".")[0]

    def imports(self) -> list[Import]:
        """Every import of any module, of this package's own and of others."""
        return [found for name, path in self.modules.items() for found in self._imports_of(name, path)]

    def own_imports(self) -> list[Import]:
        """Those of this package's own modules, each as the module that it names."""
        return [
            Import(found.module, target)
            for found in self.imports()
            if (target := self._own(found.imported)) is not None
        ]

    def classes(self) -> Counter[str]:
        """How often each class name is defined."""
        trees = (ast.parse(path.read_text(encoding="utf-8")) for path in self.modules.values())
        return Counter(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))

    def _own(self, imported: str) -> str | None:
        """The module that a dotted name means: itself, or the one that it is a name in."""
        while imported and imported not in self.modules:
            imported = imported.rpartition(".")[0]
        return imported or None

    def _imports_of(self, module: str, path: Path) -> Iterator[Import]:
        names = re.compile(rf"{self.folder.name}(\.[a-z0-9_]+)+(:\w+)?")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                base = node.module or ""
                yield from (Import(module, f"{base}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from (Import(module, alias.name) for alias in node.names)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and names.fullmatch(node.value):
                named = node.value.partition(":")[0]
                if (
                    self.modules.get(named, Path("__init__.py")).name != "__init__.py"
                ):  # a package holds data files, too
                    yield Import(module, named)


def anonymous_mappings(package: Package) -> list[str]:
    """Public functions and methods that take or return a mapping whose values have no type: ``module.function``."""
    found = []
    for module, path in package.modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                parameters = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                annotations = [one.annotation for one in parameters] + [node.returns]
                text = " ".join(ast.unparse(one) for one in annotations if one)
                if re.search(r"(dict|Mapping)\[str, Any\]", text):
                    found.append(f"{module.partition('.')[2]}.{node.name}")
    return sorted(found)


def upward(package: Package, layers: Sequence[str]) -> list[str]:
    """Imports of a layer that stands below the importing one in the list."""
    level = {name: number for number, name in enumerate(layers)}
    return sorted(
        f"{found.module} imports {found.imported}"
        for found in package.own_imports()
        if level.get(package.layer(found.imported), -1) > level[package.layer(found.module)]
    )


def circle(package: Package) -> list[str]:
    """Modules that import each other, directly or through others: the first such circle; empty if there is none."""
    graph: dict[str, set[str]] = {}
    for found in package.own_imports():
        if found.module != found.imported:
            graph.setdefault(found.module, set()).add(found.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        return list(exc.args[1])
    return []


def class_names_twice(package: Package) -> list[str]:
    """Names that several classes of the package have."""
    return sorted(name for name, times in package.classes().items() if times > 1)
