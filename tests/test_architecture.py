"""What a module may import, and what a command may load."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cefr_batch"

# From the ground up. A module imports only from lines above its own, or from its own line.
LINES = [
    "cefr_batch",  # the version alone
    "errors",
    "numbers",
    "files",
    "levels",
    "layout",
    "settings",
    "spec",
    "architecture",
    "gpus",
    "memory",
    "pretrained",
    "plan",
    "fit",
    "plots",
    "data",
    "quality",
    "store",
    "launch",
    "run",
    "rating",
    "report",
    "cli",
]
OUTSIDE = {"__main__": "cli"}  # belongs to the line of
BACKENDS = {
    "store": {"local", "s3"},
    "launch": {"local", "slurm", "k8s"},
}
# In annotations alone: plan describes a dataset, a dataset is put into a store.
TYPES_ONLY = {("plan", "data"), ("data", "store")}

HEAVY = {
    "torch", "transformers", "trl", "peft", "datasets", "unsloth", "accelerate", "boto3", "submitit", "kubernetes",
}  # fmt: skip
UNHURRIED = {"pydantic", "rich", "matplotlib", "yaml", "psutil", "tokenizers"}  # light, but not for --help
TRAINING = {"torch", "transformers", "trl", "peft", "datasets", "unsloth", "accelerate"}


@dataclass(frozen=True)
class Import:
    module: str
    imported: str  # dotted, without the package's name
    types_only: bool


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__") or "cefr_batch"] = path
    return found


def imports_of(module: str, path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from _imports(tree, module, types_only=False)


def _imports(node: ast.AST, module: str, *, types_only: bool) -> Iterator[Import]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        types_only = True
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{module}: relative import"
        assert node.module
        names = (
            [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "cefr_batch" else [node.module]
        )
        yield from (Import(module, name, types_only) for name in names)
    elif isinstance(node, ast.Import):
        yield from (Import(module, alias.name, types_only) for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, module, types_only=types_only)


def line_of(module: str) -> str:
    top = module.partition(".")[0]
    return OUTSIDE.get(top, top)


ALL = modules()
IMPORTS = [found for name, path in ALL.items() for found in imports_of(name, path)]
OWN = [found for found in IMPORTS if found.imported.partition(".")[0] == "cefr_batch"]


def target(found: Import) -> str:
    """The line of the package's part that is imported."""
    rest = found.imported.removeprefix("cefr_batch").lstrip(".")
    return line_of(rest) if rest.partition(".")[0] in {line_of(name) for name in ALL} else "cefr_batch"


def test_every_module_has_its_line_and_every_line_has_a_module() -> None:
    assert {line_of(name) for name in ALL} == set(LINES)
    assert len(ALL) > 40
    assert len(OWN) > 100


def test_a_module_imports_only_what_stands_above_it() -> None:
    wrong = [
        f"{found.module} imports {found.imported}"
        for found in OWN
        if LINES.index(target(found)) > LINES.index(line_of(found.module))
        and not (found.types_only and (line_of(found.module), target(found)) in TYPES_ONLY)
    ]
    assert wrong == []


def test_no_backend_imports_another_and_only_its_registry_names_it() -> None:
    for package, backends in BACKENDS.items():
        for backend in backends:
            name = f"{package}.{backend}"
            users = {found.module for found in OWN if f"{found.imported}.".startswith(f"cefr_batch.{name}.")}
            users = {user for user in users if not f"{user}.".startswith(f"{name}.")}
            assert users <= {package}, f"{users} import a backend of {package}"
            assert name in ALL


def test_only_the_job_imports_the_training_libraries_and_pretrained_none_of_them() -> None:
    users = {found.module for found in IMPORTS if found.imported.partition(".")[0] in TRAINING}
    assert users
    assert {line_of(user) for user in users} == {"run"}


def test_only_the_s3_store_imports_its_client() -> None:
    users = {found.module for found in IMPORTS if found.imported.partition(".")[0] in {"boto3", "botocore"}}
    assert users == {"store.s3", "store.s3_errors", "store.s3_http"}
    parts = {"cefr_batch.store.s3_errors", "cefr_batch.store.s3_http"}
    assert {found.module for found in OWN if found.imported in parts} == {"store.s3"}


def test_only_the_slurm_launcher_imports_submitit() -> None:
    users = {found.module for found in IMPORTS if found.imported.partition(".")[0] == "submitit"}
    assert users == {"launch.slurm.sender", "launch.slurm.job"}


def test_only_the_client_imports_that_of_kubernetes_and_a_manifest_needs_neither() -> None:
    users = {found.module for found in IMPORTS if found.imported.partition(".")[0] == "kubernetes"}
    assert users == {"launch.k8s.client"}
    pure = {"launch.k8s.site", "launch.k8s.manifest"}
    assert pure <= set(ALL)
    assert {found.imported for found in OWN if found.module in pure} & {"cefr_batch.launch.k8s.client"} == set()


def test_errors_imports_nothing_of_the_package_and_levels_no_file_or_store() -> None:
    assert [found for found in OWN if found.module == "errors"] == []
    assert {target(found) for found in OWN if found.module in ("levels", "layout")} <= {"errors"}


# What commands load.


def loaded_by(*arguments: str, store: Path) -> tuple[set[str], str]:
    """The modules in memory after a command, and what it printed to standard error. It must succeed."""
    code = (
        "import json, sys\n"
        "from cefr_batch.cli.main import main\n"
        "code = main(sys.argv[2:])\n"
        "open(sys.argv[1], 'w').write(json.dumps(sorted(sys.modules)))\n"
        "sys.exit(code)\n"
    )
    listing = store.with_name("modules.json")
    environment = {**os.environ, "CEFR_BATCH_STORE": str(store)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(listing), *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(listing.read_text())), done.stderr


def test_help_loads_no_command_and_nothing_big(tmp_path: Path) -> None:
    for option in ("--help", "--version"):
        loaded, _ = loaded_by(option, store=tmp_path / "store")
        assert loaded & (HEAVY | UNHURRIED) == set()
        assert {name for name in loaded if name.startswith("cefr_batch.")} == {
            "cefr_batch.cli",
            "cefr_batch.cli.main",
            "cefr_batch.errors",
        }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a complete run and one that was never started."""
    from cefr_batch.store.local import LocalStore

    folder = tmp_path_factory.mktemp("architecture") / "store"
    stored = LocalStore(folder)
    for run in ("tiny-b1-peft-v1", "tiny-b1-peft-v2"):
        stored.put_json(f"runs/{run}/spec.json", {"run": run, "spec": {"level": "B1"}})
    stored.put("runs/tiny-b1-peft-v1/logs/attempt-1.log", b"a line\n")
    stored.put_json("runs/tiny-b1-peft-v1/manifest.json", {"objects": []})
    return folder


COMMANDS = [
    "submit --help",
    "render --help",
    "plan --help",
    "list",
    "list --json",
    "status",
    "status --json",
    "status tiny-b1-peft-v1 --watch",
    "logs tiny-b1-peft-v1",
    "logs --level B1 --follow",
    "cancel tiny-b1-peft-v1",
    "resume --help",
    "report --help",
    "rate export --help",
    "rate show",
    "pull --help",
    "generate --help",
    "verify --help",
    "tensorboard --help",
    "prune --checkpoints --dry-run",
    "run-job --help",
    "data --help",
]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_loads_no_training_library_and_no_client_of_a_cluster(line: str, store: Path) -> None:
    loaded, _ = loaded_by(*line.split(), store=store)
    assert "click" in loaded
    assert loaded & HEAVY == set()
    if line.endswith("--help"):
        assert loaded & {"rich", "matplotlib", "tokenizers"} == set()


def test_submit_checks_a_level_without_a_training_library(store: Path, tiny_model: Path) -> None:
    settings = [f"model.name={tiny_model}", "training.max_length=2000", "backend=peft"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    command = ("submit", "--level", "B1", "--profile", "smoke", "--dry-run")
    loaded, _ = loaded_by(*command, *overrides, store=store)
    assert {"pydantic", "tokenizers"} <= loaded
    assert loaded & HEAVY == set()
