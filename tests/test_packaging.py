"""The distributions: what is in them, and that an installed wheel works away from the checkout."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.architecture import Package

import cefr_batch

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cefr_batch"
# Parts of another requirement, which brings them by contract; and a module's requirement that need not be installed here.
PART_OF = {"botocore": "boto3", "pydantic-core": "pydantic", "llama-cpp": "llama-cpp-python"}
_OF_TRAINING = {"torch", "unsloth"}  # whose build depends on the machine, so that the extra of a job has neither
# The extra whose packages a layer, or a part of one, may import besides those of the bare installation.
EXTRA_OF = {
    "bench": "train",
    "data.spreadsheet": "xlsx",
    "evaluation": "train",
    "export": "export train",
    "job": "train",
    "job.notices": "notify",
    "models": "train",
    "schedulers.k8s": "k8s",
    "schedulers.slurm": "slurm",
    "search": "search",
    "serve": "serve train",
    "store.s3": "s3",
    "store.s3_errors": "s3",
    "training": "train",
    "training.trackers": "train trackers",
}
SHIPPED = ("jobs", "k8s", "slurm")  # folders outside the package that the wheel carries as cefr_batch/shipped


def _run(*command: str | Path, cwd: Path, code: int = 0, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # of a developer's shell
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True
    )
    assert result.returncode == code, f"{command} in {cwd}:\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def project_files() -> list[str]:
    """Every file of the project that git knows or would add, but for those of its hosting (.github, .ci …)."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what belongs to the project cannot be told from what was left lying about")
    listed = _run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    return sorted(name for name in listed if name and not name.startswith(".") and (ROOT / name).is_file())


@pytest.fixture(scope="module")
def distributions(project_files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist of this tree, and a wheel that was built from that sdist."""
    source = tmp_path_factory.mktemp("source")
    for name in project_files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, cwd=source)
    return out


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    return distributions / f"cefr_batch-{cefr_batch.__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, installed without dependencies, and this environment's packages behind it."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    # A .pth file inside a folder that a .pth file names is not read, so an editable install here is not seen there.
    packages = [path for path in sys.path if Path(path).name == "site-packages"]
    site = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(site, "dependencies.pth").write_text("\n".join(packages), encoding="utf-8")
    return folder / "bin"


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package_and_no_other(project_files: list[str], wheel: Path) -> None:
    """Among them py.typed, templates, translations, the starter corpus; a folder missing in setup.cfg is seen here."""
    expected = {name for name in project_files if name.startswith("cefr_batch/")}
    expected |= {
        f"cefr_batch/shipped/{name}"
        for name in project_files
        if name.split("/")[0] in SHIPPED
        and name.endswith(".yaml")
        and not name.startswith(("k8s/base/", "k8s/overlays/"))
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_the_sdist_has_every_file_of_the_project(project_files: list[str], distributions: Path) -> None:
    with tarfile.open(distributions / f"cefr_batch-{cefr_batch.__version__}.tar.gz") as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    assert set(project_files) <= found
    assert not {name for name in found if "__pycache__" in name}


def test_the_metadata_says_what_an_index_shows(wheel: Path) -> None:
    metadata = _metadata(wheel)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert metadata["Version"] == cefr_batch.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == setup["options"]["python_requires"]
    assert metadata["Keywords"]
    lowest = int(metadata["Requires-Python"].removeprefix(">=3."))
    versions = [f"Programming Language :: Python :: 3.{minor}" for minor in range(lowest, 15)]
    assert [line for line in metadata.get_all("Classifier", []) if ":: Python :: 3." in line] == versions


@pytest.mark.slow
def test_every_import_is_a_requirement() -> None:
    """And no requirement of the bare installation is left over. Extras may name what only their other packages import."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    required = _names(setup["options"]["install_requires"])
    extras = _names("\n".join(value for key, value in setup["options.extras_require"].items() if key != "dev"))
    distributions_of = importlib.metadata.packages_distributions()
    imported = {
        PART_OF.get(canonicalize_name(distribution), canonicalize_name(distribution))
        for module in _imported_modules() - sys.stdlib_module_names - {"cefr_batch"}
        for distribution in distributions_of.get(module, [module])
    }
    assert imported <= required | extras
    assert required <= imported


@pytest.mark.slow
def test_what_a_module_imports_is_in_the_bare_installation_or_in_its_own_extra() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    core = _names(setup["options"]["install_requires"])
    distributions_of = importlib.metadata.packages_distributions()
    wrong = []
    for found in Package.read(PACKAGE).imports():
        name = found.imported.partition(".")[0]
        if name in sys.stdlib_module_names or name == "cefr_batch":
            continue
        extras = _extras_of(found.module)
        own = "\n".join(setup["options.extras_require"][extra] for extra in extras)
        allowed = core | _names(own) | (_OF_TRAINING if "train" in extras else set())
        brought_by = {canonicalize_name(one) for one in distributions_of.get(name, [name])}
        if not {PART_OF.get(one, one) for one in brought_by} & allowed:
            wrong.append(f"{found.module} imports {name}, which is not in {' or '.join(['core', *extras])}")
    assert wrong == []


def _extras_of(module: str) -> list[str]:
    """By the longest part of a module's name that ``EXTRA_OF`` knows."""
    parts = module.split(".")[1:]
    known = (EXTRA_OF.get(".".join(parts[:length])) for length in range(len(parts), 0, -1))
    return next((extras.split() for extras in known if extras), [])


def test_every_requirement_of_a_user_has_a_lowest_and_a_highest_version() -> None:
    """So that a new major version of a library comes with a change here, not with somebody's next installation."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = (value for key, value in setup["options.extras_require"].items() if key != "dev")
    lines = "\n".join([setup["options"]["install_requires"], *extras]).splitlines()
    operators = {line.strip(): {one.operator for one in Requirement(line).specifier} for line in lines if line.strip()}
    bounded = ({">=", "<"}, {">=", "<="}, {"=="})
    assert {line for line, found in operators.items() if found not in bounded} == set()


def _names(requirements: str) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements.splitlines() if line.strip()}


def _imported_modules() -> set[str]:
    """The first part of each import's name, wherever in a module it stands."""
    nodes = (node for path in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = (
        [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
    )
    return {name.partition(".")[0] for found in names for name in found}


@pytest.mark.slow
def test_an_installed_wheel_runs_away_from_the_checkout(installed: Path, tmp_path: Path, tiny_model: Path) -> None:
    """Without torch: settings, sites, the starter corpus and the report's templates all come from the wheel."""
    where = _run(installed / "python", "-c", "import cefr_batch; print(cefr_batch.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(installed.parent)

    def command(*arguments: str, code: int = 0) -> str:
        store = str(tmp_path / "runs")
        return _run(installed / "cefr-batch", *arguments, cwd=tmp_path, code=code, CEFR_BATCH_STORE=store)

    level = ("--level", "B1", "--profile", "smoke", "--set", f"model.name={tiny_model}", "--set", "model.alias=tiny")
    quick = ("--set", "data.examples=20", "--set", "training.max_length=2000", "--set", "backend=peft")
    assert cefr_batch.__version__ in command("--version")
    assert "submit" in command("--help")
    assert "starter" in command("plan", *level, *quick)
    dry_run = command("submit", *level, *quick, "--cluster", "slurm/cpu", "--dry-run", code=1)  # there is no Slurm
    assert "sbatch" in dry_run
    assert "run-job tiny-b1-peft-v1" in dry_run
    assert not (tmp_path / "runs").exists()


def test_no_image_is_named_with_a_version(project_files: list[str]) -> None:
    """The version is stated in cefr_batch/__init__.py alone; a text that repeats it is wrong from the next release on."""
    tag = re.compile(r"\d+\.\d+\.\d+-(?:cuda|cpu)\b")
    texts = {name: (ROOT / name).read_bytes().decode("utf-8", "ignore") for name in project_files}
    golden = ("tests/golden/", "k8s/base/")  # written by the program, which knows its version
    assert not {name for name, text in texts.items() if tag.search(text) and not name.startswith(golden)}
