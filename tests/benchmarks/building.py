"""Building and checking examples, against the seed's way: whole lists in memory, ``json.dump``, a look at each."""

from __future__ import annotations

import csv
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import OURS, Comparison, Took, in_turns, median, process, ratio, script, seconds_of

SEED = "seed's way"
WORDS, SENTENCES = 2000, 20


def compare(tiny: Path | None, folder: Path) -> list[Comparison]:
    source = pairs(folder / "pairs.csv")
    sizes = [200] if tiny else [10_000, 100_000, 1_000_000]
    took = {size: in_turns(1 if size > 100_000 or tiny else 3, _ways(source, size, folder)) for size in sizes}
    memory = {size: median([one.peak_mb for one in several[OURS]]) for size, several in took.items()}
    grows = memory[sizes[-1]] / memory[sizes[0]]
    notes = [f"peak memory at {size:,} examples: {_memory(several)}" for size, several in took.items()]
    return [
        Comparison(
            "data", f"build and check {size:,} examples", seconds_of(several), "≥ 1.0 × the seed's way; flat memory",
            f"{ratio(seconds_of(several), SEED):.2f} ×; memory of the largest size {grows:.1f} × the smallest's",
            ratio(seconds_of(several), SEED) >= 1 and grows <= 1.5, notes if size == sizes[-1] else (),
        )
        for size, several in took.items()
    ]  # fmt: skip


def ours(source: Path, size: int, folder: Path) -> Took:
    """``data build`` and ``data check``, together."""
    target = folder / "ours"
    shutil.rmtree(target, ignore_errors=True)
    command: list[str | Path] = [sys.executable, "-m", "cefr_batch", "data"]
    options = ["--level", "B1", "--examples", str(size), "--split-by", "example"]
    parts = [process([*command, "build", source, "--out", target, *options])]
    parts.append(process([*command, "check", target / "train.json", target / "eval.json"]))
    return Took(sum(one.seconds for one in parts), max(one.peak_mb for one in parts))


def _ways(source: Path, size: int, folder: Path) -> dict[str, Callable[[], Took]]:
    return {
        OURS: lambda: ours(source, size, folder),
        SEED: lambda: script("build_seed.py", source, str(size), folder / "seed"),
    }


def _memory(several: dict[str, list[Took]]) -> str:
    return ", ".join(f"{name} {median([one.peak_mb for one in took]):,.0f} MB" for name, took in several.items())


def pairs(file: Path) -> Path:
    """A pool of made-up sentences, each with its word in it."""
    dice = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = sorted({"".join(dice.choices(letters, k=dice.randrange(4, 9))) for _ in range(WORDS)})
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["word", "sentence"])
        for word in words:
            for _ in range(SENTENCES):
                writer.writerow([word, f"The {word} of {' and '.join(dice.choices(words, k=8))} is new."])
    return file
