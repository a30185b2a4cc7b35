"""Whole runs through the command line, for the tests of this folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
UNSLOTH_PYTHON = ROOT / ".venv-unsloth" / "bin" / "python"


def cefr_batch(*arguments: str, store: Path, python: str | Path = sys.executable) -> str:
    """Run a command on a store, in the repository's folder; it must succeed. Returns its standard output."""
    command = [str(python), "-m", "cefr_batch", *arguments, "--store", str(store)]
    return subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout


def settings(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def runs(store: Path) -> dict[str, Path]:
    """The folders of a store's runs by name."""
    return {folder.name: folder for folder in sorted((store / "runs").iterdir())}


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def needs_unsloth() -> None:
    """Skip, by name, without the environment of the Unsloth backend; in CI that is a failure."""
    if not UNSLOTH_PYTHON.is_file():
        missing = pytest.fail if os.environ.get("CEFR_BATCH_REQUIRE_ALL") else pytest.skip
        missing("needs .venv-unsloth: make setup-unsloth")


def full_loss(model_folder: Path, examples: Sequence[Any]) -> float:
    """The mean loss over all tokens of a model loaded as any user would, one example at a time: no batch, no padding."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cefr_batch.data import text_of

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    total = tokens = 0.0
    for example in examples:
        ids = torch.tensor([tokenizer(text_of(example, tokenizer.eos_token)).input_ids])
        with torch.inference_mode():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    return total / tokens
