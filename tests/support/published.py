"""The published data of the system that the project reproduces: beside the checkout, never in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "shared" / "data"


def published(name: str) -> Path:
    """The file of this name; if missing, the test is skipped by name, or fails (CEFR_BATCH_REQUIRE_ALL)."""
    if not (FOLDER / name).is_file():
        missing = pytest.fail if os.environ.get("CEFR_BATCH_REQUIRE_ALL") else pytest.skip
        missing(f"needs ../shared/data/{name}")
    return FOLDER / name
