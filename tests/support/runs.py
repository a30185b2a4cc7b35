"""Whole runs through the command line, for the tests of this folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.prompts import alpaca

ROOT = Path(__file__).parents[2]
UNSLOTH_PYTHON = ROOT / ".venv-unsloth" / "bin" / "python"
# The smoke profile where a run is about the place it runs in: half as many steps as in the demo, whose figures are tested.
SMOKE = ("--profile", "smoke", "--set", "training.max_steps=6", "--set", "generation.examples=1")


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


def same_as(reference: Callable[[str], Any], run: Callable[[str], Any]) -> None:
    """Two runs ended with the same weights to the bit, the same figures and texts. Each is given by what reads one of its
    documents by name."""
    before, after = reference("metrics.json"), run("metrics.json")
    for key in ("log", "best", "baseline", "tuned", "reduction", "generation", "merge", "data", "leakage"):
        assert before[key] == after[key], key
    for key in ("steps", "epochs", "stopped_early"):
        assert before["train"].get(key) == after["train"].get(key), key
    assert before.get("adapter") == after.get("adapter")
    hashes = [{o["key"]: o["sha256"] for o in of("manifest.json")["objects"]} for of in (reference, run)]
    for key in ("adapter/adapter_model.safetensors", "merged/model.safetensors", "evaluation.json", "generation.json"):
        assert hashes[0][key] == hashes[1][key], key


def needs_unsloth() -> None:
    """Skip, by name, without the environment of the Unsloth backend; in CI that is a failure."""
    if not UNSLOTH_PYTHON.is_file():
        missing = pytest.fail if os.environ.get("CEFR_BATCH_REQUIRE_ALL") else pytest.skip
        missing("needs .venv-unsloth: make setup-unsloth")


def full_loss(model_folder: Path, examples: Sequence[Any]) -> float:
    """The mean loss over all tokens of a model loaded as any user would, one example at a time: no batch, no padding."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    prompts = alpaca(tokenizer.eos_token)
    total = tokens = 0.0
    for example in examples:
        ids = torch.tensor([tokenizer(prompts.text(example)).input_ids])
        with torch.inference_mode():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    return total / tokens
