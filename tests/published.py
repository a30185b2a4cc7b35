"""The published data of the system that the project reproduces: beside the checkout, never in it."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "shared" / "data"


def published(name: str) -> Path:
    """The file of this name; the test is skipped, by name, where it is missing."""
    if not (FOLDER / name).is_file():
        pytest.skip(f"needs ../shared/data/{name}")
    return FOLDER / name
