"""Baseline and tuned evaluation, loading included, against the first script. Both in fp32, so that losses compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import models
from benchmarks.measure import OURS, Comparison, in_turns, median, ratio, script

FIRST_SCRIPT = "first script"


def compare(tiny: Path | None, folder: Path) -> list[Comparison]:
    if tiny:
        return [_evaluates("a tiny model", tiny, folder, 4, 1)]
    wide = models.random_llama(folder / "wide", models.smollm2(), layers=2, hidden=256, vocabulary=128256)
    return [
        _evaluates("a small model with Llama-3.2's vocabulary", wide, folder, 200, 2),
        _evaluates("SmolLM2-135M", models.smollm2(), folder, 100, 2),
    ]


def _evaluates(name: str, model: Path, folder: Path, number: int, rounds: int) -> Comparison:
    adapter = models.random_adapter(model, folder / f"adapter-{model.name}", 16)
    examples = models.b1_examples(folder / "examples.json", number)

    def way(program: str) -> dict[str, Any]:
        result: dict[str, Any] = script(program, model, adapter, examples, str(number)).result()
        return result

    results = in_turns(
        rounds, {OURS: lambda: way("evaluate_ours.py"), FIRST_SCRIPT: lambda: way("evaluate_first_script.py")}
    )
    seconds = {one: [result["seconds"] for result in several] for one, several in results.items()}
    memory = {one: median([result["peak_mb"] for result in several]) for one, several in results.items()}
    apart = max(abs(a - b) for a, b in zip(results[OURS][0]["losses"], results[FIRST_SCRIPT][0]["losses"], strict=True))
    times, share = ratio(seconds, FIRST_SCRIPT), memory[OURS] / memory[FIRST_SCRIPT]
    half = vocabulary_is_large(model)
    return Comparison(
        "evaluation", f"{number} B1 examples, before and after training: {name}", seconds,
        "≥ 1.3 × the first script; losses within 1e-4" + ("; peak memory ≤ half of the script's" if half else ""),
        f"{times:.2f} × the first script; losses {apart:.1e} apart; {share:.2f} of the script's peak memory",
        times >= 1.3 and apart <= 1e-4 and (share <= 0.5 or not half),
        (f"peak memory beyond that of the imports: {', '.join(f'{one} {mb:,.0f} MB' for one, mb in memory.items())}",),
    )  # fmt: skip


def vocabulary_is_large(model: Path) -> bool:
    from transformers import AutoConfig

    return bool(AutoConfig.from_pretrained(model).vocab_size > 100_000)
