"""What a job costs around its computing: the same run by ``submit --wait``, and its stages called by hand."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import models
from benchmarks.measure import OURS, Comparison, Took, in_turns, median, process, script

BY_HAND = "stages by hand"
TEN_MINUTES = 600


def compare(tiny: Path | None, folder: Path) -> list[Comparison]:
    model, rounds = tiny or models.smollm2(), 1 if tiny else 3
    settings = [
        f"model.name={model}", "backend=peft", "data.examples=40", "training.batch_size=4", "training.max_steps=4",
        "training.gradient_accumulation_steps=1", "training.eval_steps=2", "evaluation.max_examples=4",
        "generation.examples=2", "generation.max_new_tokens=16", "lora.rank=8",
    ]  # fmt: skip
    submit = [sys.executable, "-m", "cefr_batch", "submit", "--level", "B1", "--cluster", "local", "--wait"]
    options = [word for one in settings for word in ("--set", one)]
    work = {"CEFR_BATCH_WORK": str(folder / "work")}

    def ours() -> Took:
        shutil.rmtree(folder / "store", ignore_errors=True)
        return process([*submit, *options, "--store", folder / "store"], env=work)

    def by_hand() -> Took:
        shutil.rmtree(folder / "hand", ignore_errors=True)
        return script("stages_by_hand.py", folder / "hand", *settings)

    took = in_turns(rounds, {OURS: ours, BY_HAND: by_hand})
    seconds = {name: [one.seconds for one in several] for name, several in took.items()}
    more = median(seconds[OURS]) - median(seconds[BY_HAND])
    share = 100 * more / (TEN_MINUTES + more)
    return [
        Comparison(
            "job", "a short run, from submit to complete", seconds, "≤ 5 % of a 10-minute run is spent outside its stages",
            f"{more:.1f} s more than by hand, {share:.1f} % of a 10-minute run", share <= 5,
            (_stages(took[OURS], folder),),
        )
    ]  # fmt: skip


def _stages(took: Sequence[Took], folder: Path) -> str:
    import json

    files = sorted((folder / "store" / "runs").glob("*/stages/*.json"), key=lambda file: file.stat().st_mtime)
    stages = [json.loads(file.read_text()) for file in files]
    parts = ", ".join(f"{stage['stage']} {stage['seconds']:.1f} s" for stage in stages)
    return f"the last round took {took[-1].seconds:.1f} s: {parts}; the rest is starting, loading libraries and storing"
