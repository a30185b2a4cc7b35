"""Check a data file of either form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cefr_batch.data.examples import count_examples
from cefr_batch.data.pairs import check_pairs, holds_pairs
from cefr_batch.data.reading import Findings


@dataclass(frozen=True)
class FileCheck:
    kind: str  # what it holds: examples or sentence pairs
    good: int
    findings: Findings


def check_file(path: Path) -> FileCheck:
    """What is wrong with a file of examples (list format) or of sentence pairs; it says itself which it is."""
    if not holds_pairs(path):
        return FileCheck("examples", *count_examples(path))
    items, findings = check_pairs(path)
    return FileCheck("sentence pairs", len(items), findings)
