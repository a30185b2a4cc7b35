"""Sentences for the report: many prompts at once, against one ``generate`` call an example. Both with the KV cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import models
from benchmarks.measure import OURS, Comparison, in_turns, ratio, script

ONE = "one call an example"


def compare(tiny: Path | None, folder: Path) -> list[Comparison]:
    number, most, rounds = (2, 4, 1) if tiny else (32, 48, 2)
    model = tiny or models.smollm2()
    examples = models.b1_examples(folder / "examples.json", number)

    def way(how: str) -> dict[str, Any]:
        result: dict[str, Any] = script("generate.py", how, model, examples, str(number), str(most)).result()
        return result

    results = in_turns(rounds, {OURS: lambda: way("batched"), ONE: lambda: way("one-by-one")})
    seconds = {name: [result["seconds"] for result in several] for name, several in results.items()}
    pairs = zip(results[OURS][0]["texts"], results[ONE][0]["texts"], strict=True)
    same = sum(ours == theirs for ours, theirs in pairs)
    times = ratio(seconds, ONE)
    return [
        Comparison(
            "generation", f"{number} B1 prompts, {most} tokens each at most", seconds, "≥ 4 × one call an example",
            f"{times:.2f} ×; {same} of {number} texts the same", times >= 4,
        )
    ]  # fmt: skip
