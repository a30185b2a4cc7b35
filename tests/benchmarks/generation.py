"""Sentences for the report: many prompts at once, against one ``generate`` call an example. Both with the KV cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import models
from benchmarks.measure import OURS, Comparison, in_turns, ratio, script

ONE = "one call per example"


def compare(tiny: Path | None, folder: Path) -> list[Comparison]:
    """One call an example takes half an hour for all of them, so it is measured for some, from first to last."""
    number, every, most, rounds = (2, 1, 4, 1) if tiny else (200, 20, 160, 2)
    model = tiny or models.smollm2()
    examples = models.b1_examples(folder / "examples.json", number)

    def way(how: str, step: int) -> dict[str, Any]:
        arguments = (how, model, examples, str(number), str(step), str(most))
        result: dict[str, Any] = script("generate.py", *arguments).result()
        return result

    results = in_turns(rounds, {OURS: lambda: way("batched", 1), ONE: lambda: way("one-by-one", every)})
    seconds = {name: [result["seconds"] for result in several] for name, several in results.items()}
    seconds[ONE] = [every * one for one in seconds[ONE]]
    theirs = results[ONE][0]["texts"]
    pairs = zip(results[OURS][0]["texts"][::every], theirs, strict=True)
    same = sum(mine == text for mine, text in pairs)
    times = ratio(seconds, ONE)
    return [
        Comparison(
            "generation", f"{number} B1 prompts, at most {most} tokens each", seconds, "≥ 4 × one call per example",
            f"{times:.2f} × one call per example; {same} of {len(theirs)} texts the same", times >= 4,
            (f"one call per example: only every {every}th example was timed, and its time multiplied by {every}",)
            if every > 1 else (),
        )
    ]  # fmt: skip
