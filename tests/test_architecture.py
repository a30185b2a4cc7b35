"""What a module may import, and what a command may load."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.architecture import Package, anonymous_mappings, circle, class_names_twice, upward

ROOT = Path(__file__).parents[1]
PACKAGE = Package.read(ROOT / "cefr_batch")

HEAVY = {
    "torch", "transformers", "trl", "peft", "datasets", "unsloth", "accelerate", "boto3", "submitit", "kubernetes",
    "starlette", "uvicorn", "docx", "optuna", "sqlalchemy",
}  # fmt: skip
UNHURRIED = {"pydantic", "rich", "matplotlib", "yaml", "psutil", "tokenizers"}  # light, but not for --help
# Who may import which library, anywhere in its code.
USERS = {
    "torch transformers trl peft datasets unsloth accelerate": {"models", "training", "evaluation", "job", "bench"},
    "boto3 botocore s3transfer": {"store"},
    "submitit": {"schedulers.slurm"},
    "kubernetes": {"schedulers.k8s"},
    "starlette uvicorn docx": {"serve"},
    "optuna": {"search"},
}


def layers() -> list[str]:
    """The layers from the ground up, as the documentation lists them; the package's root is below, its entry above all."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- layers -->\n```\n(.*?)```", text, re.DOTALL)
    assert block
    return ["", *re.findall(r"^(\w+)  ", block[1], re.MULTILINE), "__main__"]


def test_the_documented_layers_are_those_of_the_package() -> None:
    assert {PACKAGE.layer(module) for module in PACKAGE.modules} == set(layers())
    assert len(PACKAGE.modules) > 80
    assert len(PACKAGE.own_imports()) > 300


def test_a_layer_imports_only_from_layers_above_it_in_the_list() -> None:
    assert upward(PACKAGE, layers()) == []


@pytest.mark.slow
def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(PACKAGE) == []


def test_no_class_name_exists_twice() -> None:
    assert class_names_twice(PACKAGE) == []


# Mappings whose values have no type, and why: what another library hands over or wants, and documents for other programs.
UNTYPED = {
    "cli.show.as_dicts": "status --json",
    "config.layers.reason": "one of pydantic's errors",
    "data.special_tokens.read_config": "a tokenizer_config.json of transformers",
    "human_eval.table.ratings_json": "rate show --json",
    "models.architecture.of": "a config.json of transformers",
    "models.checks.linear_modules": "a config.json of transformers",
    "models.checks.model_problems": "a config.json of transformers",
    "models.checks.module_problems": "a config.json of transformers",
    "report.as_json.report_json": "report.json",
    "report.compare.flat": "settings of any version, compared key by key",
    "runner.plan.as_json": "plan --json",
    "runner.study_results.study_figures": "a study in report.json and search show --json",
    "runner.study_results.study_json": "search show --json",
    "training.callbacks.fold_log": "rows of transformers' log_history",
    "training.callbacks.latest_loss": "rows of transformers' log_history",
}


def test_no_anonymous_mapping_crosses_a_layer() -> None:
    """Figures travel as the records that are stored; what is listed above is all that does not."""
    methods_of_libraries = {"fence", "code_block", "blockquote_open", "text", "link_open"}  # of markdown-it's renderer
    found = [one for one in anonymous_mappings(PACKAGE) if one.rpartition(".")[2] not in methods_of_libraries]
    assert found == sorted(UNTYPED)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("config/schema.py", "from cefr_batch.store.base import Store"),
        ("config/schema.py", "def late() -> None:\n    from cefr_batch import report"),
        ("models/resolve.py", 'COMMAND = ["-m", "cefr_batch.job.supervisor"]'),
        ("store/base.py", 'REGISTRY = {"local": "cefr_batch.schedulers.local.scheduler:LocalScheduler"}'),
    ],
    ids=["at the top", "in a function", "started by its name", "in a registry"],
)
def test_a_planted_upward_import_is_found(module: str, line: str, tmp_path: Path) -> None:
    assert len(upward(planted(tmp_path, module, line), layers())) == 1


@pytest.mark.slow
def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    package = planted(tmp_path, "config/schema.py", "def late() -> None:\n    from cefr_batch.config import load")
    assert {"cefr_batch.config.schema", "cefr_batch.config.load"} <= set(circle(package))


@pytest.mark.slow
def test_a_planted_second_class_of_a_name_is_found(tmp_path: Path) -> None:
    assert class_names_twice(planted(tmp_path, "report/write.py", "class RunSpec: ...")) == ["RunSpec"]


def planted(folder: Path, module: str, line: str) -> Package:
    """A copy of the package with a line more in one of its modules."""
    copy = shutil.copytree(PACKAGE.folder, folder / "cefr_batch", ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / module).open("a", encoding="utf-8") as file:
        file.write(f"\n\n{line}\n")
    return Package.read(copy)


@pytest.mark.slow
@pytest.mark.parametrize("libraries", USERS)
def test_a_library_is_imported_where_it_belongs_and_nowhere_else(libraries: str) -> None:
    names, allowed = set(libraries.split()), USERS[libraries]
    users = {found.module for found in PACKAGE.imports() if found.imported.partition(".")[0] in names}
    assert users
    others = {user for user in users if not any(f"{user}.".startswith(f"cefr_batch.{layer}.") for layer in allowed)}
    assert others == set()


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["store", "schedulers"])
def test_no_backend_imports_another_and_only_its_registry_names_it(layer: str) -> None:
    backends = {"store": {"local", "s3"}, "schedulers": {"local", "slurm", "k8s"}}[layer]
    for backend in backends:
        name = f"cefr_batch.{layer}.{backend}"
        users = {one.module for one in PACKAGE.own_imports() if f"{one.imported}.".startswith(f"{name}.")}
        users = {user for user in users if not f"{user}.".startswith((f"{name}.", f"{name}_"))}
        assert users <= {f"cefr_batch.{layer}"}, f"{users} import a backend of {layer}"
        assert any(f"{module}.".startswith(f"{name}.") for module in PACKAGE.modules)


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
            "cefr_batch.cli.printable",
            "cefr_batch.cli.standard_streams",
            "cefr_batch.errors",
        }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a complete run and one that was never started."""
    from cefr_batch.store.local import LocalStore

    folder = tmp_path_factory.mktemp("architecture") / "store"
    stored = LocalStore(folder)
    for run in ("tiny-b1-peft-v1", "tiny-b1-peft-v2"):
        spec = {"run": run, "dataset": "0" * 64, "spec": {"level": "B1"}, "submitted_at": "2026-01-01T00:00:00+00:00"}
        stored.put_json(f"runs/{run}/spec.json", spec)
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
    "serve --help",
    "prune --checkpoints --dry-run",
    "run-job --help",
    "data --help",
]


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_loads_no_training_library_and_no_client_of_a_cluster(line: str, store: Path) -> None:
    loaded, _ = loaded_by(*line.split(), store=store)
    assert "click" in loaded
    assert loaded & HEAVY == set()
    if line.endswith("--help"):
        assert loaded & {"rich", "matplotlib", "tokenizers"} == set()


@pytest.mark.slow
def test_submit_checks_a_level_without_a_training_library(store: Path, tiny_model: Path) -> None:
    settings = [f"model.name={tiny_model}", "training.max_length=2000", "backend=peft"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    command = ("submit", "--level", "B1", "--profile", "smoke", "--dry-run")
    loaded, _ = loaded_by(*command, *overrides, store=store)
    assert {"pydantic", "tokenizers"} <= loaded
    assert loaded & HEAVY == set()


def test_no_message_says_by_itself_how_bad_it_is() -> None:
    """A command's handler puts "warning:" before what is logged. A job's log has no such handler."""
    told_twice = [
        f"{file.relative_to(ROOT)}:{call.lineno}"
        for file in sorted((ROOT / "cefr_batch").rglob("*.py"))
        if file.relative_to(ROOT).parts[1] != "job"
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("log.") and call.args
        if re.match(r"f?['\"](warning|error|note):", ast.unparse(call.args[0]))
    ]
    assert told_twice == []


def test_no_load_of_a_model_or_tokenizer_may_run_its_code() -> None:
    """transformers asks on a terminal whether to run a folder's Python files, unless it is told not to."""
    trusting = []
    for file in (ROOT / "cefr_batch").rglob("*.py"):
        for call in (
            node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
        ):
            name = ast.unparse(call.func)
            if re.fullmatch(r"(Auto\w+|FastLanguageModel)\.from_(pretrained|config)", name):
                told = {word.arg: ast.unparse(word.value) for word in call.keywords}
                if told.get("trust_remote_code") != "False":
                    trusting.append(f"{file.name}:{call.lineno}")
    assert trusting == []
