"""The container image that several tests of whole runs share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import image as images


@pytest.fixture(scope="session")
def image() -> str:
    """The cpu image of this tree, built once."""
    if why := images.why_not():
        (pytest.fail if os.environ.get("CEFR_BATCH_REQUIRE_ALL") else pytest.skip)(why)
    images.build(images.TAG)
    return images.TAG


@pytest.fixture(scope="session")
def unpacked(image: str) -> Iterator[Path]:
    """Not below pytest's folder: there nobody but root may enter."""
    folder = Path("/var/tmp") / f"cefr-batch-image-{os.getpid()}"
    images.script("unpack", image, folder)
    yield folder
    shutil.rmtree(folder)
