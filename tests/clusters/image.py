"""Container images that ``image.sh`` builds, for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("image.sh")
TAG = "localhost/cefr-batch:test-cpu"


def why_not() -> str:
    """What keeps an image from being built here; empty: nothing."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return "building an image without an engine needs root on Debian (tests/clusters/image.sh)"
    return ""


def script(*arguments: str | Path) -> None:
    subprocess.run([SCRIPT, *arguments], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def build(tag: str, context: Path = ROOT) -> None:
    """The target cpu of a source tree. What has not changed since the last build comes from its layers."""
    dockerfile = context / "containers" / "Dockerfile"
    script("build", "--quiet", "--target", "cpu", "--tag", tag, "--file", dockerfile, context)
