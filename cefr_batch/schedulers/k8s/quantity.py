"""Quantities as Kubernetes writes them."""

from __future__ import annotations

import re
from typing import Any

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text: Any) -> float:
    """A quantity of Kubernetes (``4``, ``3920m``, ``16Gi``) as a number; 0 for what is none."""
    match = re.fullmatch(r"([0-9.]+)([kMGT]i?|Ki|m)?", str(text))
    if not match:
        return 0.0
    number, unit = match.groups()
    try:
        return float(number) / 1000 if unit == "m" else float(number) * _UNITS.get(unit or "", 1)
    except ValueError:
        return 0.0
