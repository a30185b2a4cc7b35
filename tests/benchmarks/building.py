"""Building and checking examples, against the first script: ``random.sample``, ``json.dump``, a look at each."""

from __future__ import annotations

import csv
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import OURS, Comparison, Took, in_turns, peaks, process, ratio, script, seconds_of

FIRST_SCRIPT = "first script"
WORDS, SENTENCES = 2000, 20


def compare(tiny: Path | None, folder: Path) -> list[Comparison]:
    source = pairs(folder / "pairs.csv")
    sizes = [200] if tiny else [2_000, 20_000]
    took = {size: in_turns(1 if tiny else 5, _ways(source, size, folder)) for size in sizes}
    return [
        Comparison(
            "data", f"build and check {size:,} examples", seconds_of(several), "none: a build takes seconds, once per run",
            f"{ratio(seconds_of(several), FIRST_SCRIPT):.2f} ×", True, (f"peak memory: {peaks(several)}",),
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
        FIRST_SCRIPT: lambda: script("build_first_script.py", source, str(size), folder / "first"),
    }


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
