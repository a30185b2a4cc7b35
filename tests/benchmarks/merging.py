"""The merge to 16-bit weights, against PEFT's and Unsloth's; copying the model's files shows what the disk takes."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from benchmarks import models
from benchmarks.measure import OURS, UNSLOTH, Comparison, Took, fastest, in_turns, peaks, ratio, script, seconds_of


def compare(tiny: Path | None, folder: Path) -> list[Comparison]:
    if tiny:
        return [_merges("a tiny model", tiny, 4, folder / "t", 1)]
    shape = {"layers": 16, "hidden": 2048, "vocabulary": 128256}
    large = models.random_llama(folder / "1b", models.smollm2(), **shape, max_shard_size="600MB")
    return [
        _merges("SmolLM2-135M, rank 128", models.smollm2(), 128, folder / "s", 5),
        _merges("Llama-3.2-1B's shape, rank 128", large, 128, folder / "l", 3),
    ]


def _merges(name: str, model: Path, rank: int, folder: Path, rounds: int) -> Comparison:
    adapter = models.random_adapter(model, folder / "adapter", rank)

    def way(program: str, python: Path | None = None) -> Took:
        target = folder / program
        shutil.rmtree(target, ignore_errors=True)
        took = script(program, model, adapter, target, **({"python": python} if python else {}))
        return Took(**took.result())

    def copied() -> Took:
        started = time.monotonic()
        shutil.copytree(model, folder / "copy", dirs_exist_ok=True)
        return Took(time.monotonic() - started, 0)

    ways = {OURS: lambda: way("merge_ours.py"), "PEFT": lambda: way("merge_peft.py")}
    if UNSLOTH.is_file() and rounds > 1:
        ways["Unsloth"] = lambda: way("merge_unsloth.py", UNSLOTH)
    took = in_turns(rounds, ways)
    copies = in_turns(rounds, {"copy": copied})["copy"]
    shard = max(file.stat().st_size for file in model.glob("*.safetensors")) / 2**20
    adapter_mb = (adapter / "adapter_model.safetensors").stat().st_size / 2**20
    peak = max(one.peak_mb for one in took[OURS])
    seconds = seconds_of(took)
    other = fastest(seconds)
    times = ratio(seconds, other)
    return Comparison(
        "merge", f"merge to 16-bit: {name}", seconds,
        "≥ 1.5 × the fastest other program, or limited by the disk; peak memory ≤ 1.2 × the largest shard + the adapter",
        f"{times:.2f} × {other}; peak memory {peak:,.0f} MB, {peak / (1.2 * shard + adapter_mb):.2f} of the limit",
        times >= 1.5 and peak <= 1.2 * shard + adapter_mb,
        (f"peak memory beyond that of the imports: {peaks(took)}; largest shard {shard:,.0f} MB, "
         f"adapter {adapter_mb:,.0f} MB",
         f"copying the model's files took {min(one.seconds for one in copies):.2f} s",
         _difference(folder)),
    )  # fmt: skip


def _difference(folder: Path) -> str:
    """How the merged weights differ from those of PEFT, which merges in bf16 what ours merges in fp32 and rounds once."""
    import torch
    from safetensors.torch import load_file

    same = total = 0
    ours, theirs = (
        {
            name: tensor
            for file in sorted((folder / way).glob("*.safetensors"))
            for name, tensor in load_file(file).items()
        }
        for way in ("merge_ours.py", "merge_peft.py")
    )
    for name, tensor in theirs.items():
        same += int(torch.eq(tensor, ours[name]).sum())
        total += tensor.numel()
    return f"{100 * same / total:.4f} % of the weights are bit-identical to PEFT's in-memory merge"
