"""Whole expected files, in ``golden/``."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "golden"


def same_as_golden(name: str, text: str) -> None:
    """Compare with the file of this name; a missing one fails. ``CEFR_BATCH_UPDATE_GOLDEN=1`` writes it: read the diff."""
    path = FOLDER / name
    if os.environ.get("CEFR_BATCH_UPDATE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"{path} is missing; CEFR_BATCH_UPDATE_GOLDEN=1 writes it"
    assert text == path.read_text(encoding="utf-8")
