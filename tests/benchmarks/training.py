"""Training throughput on the CPU, against what a user would write with TRL and PEFT, and with Unsloth."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from benchmarks import models
from benchmarks.measure import OURS, UNSLOTH, Comparison, in_turns, median, ratio, script

DATA = Path(__file__).parents[3] / "shared" / "data"
TOLERANCE = 1e-2


def compare(tiny: Path | None, folder: Path) -> list[Comparison]:
    steps, rounds, batch = (2, 1, 2) if tiny else (4, 2, 16)
    model = tiny or models.smollm2()
    files = _inputs(folder, model, steps, batch)

    def way(program: str, **python: Path) -> dict[str, list[float]]:
        result: dict[str, list[float]] = script(program, model, *files, folder / "out", **python).result()
        return result

    ways = {OURS: lambda: way("train_ours.py"), "TRL + PEFT": lambda: way("train_plain.py")}
    if UNSLOTH.is_file() and not tiny:
        ways["Unsloth"] = lambda: way("train_unsloth.py", python=UNSLOTH)
    results = in_turns(rounds, ways)
    seconds = {name: [one for run in several for one in run["seconds"][1:]] for name, several in results.items()}
    apart = max(
        abs(a - b)
        for several in results.values()
        for a, b in zip(several[0]["losses"], results[OURS][0]["losses"], strict=True)
    )
    times = {name: ratio(seconds, name) for name in seconds if name != OURS}
    wants = {"TRL + PEFT": 1.3, "Unsloth": 1.0}
    return [
        Comparison(
            "training", f"a step of {batch} B1 examples, rank 128, dropout 0.05", seconds,
            "≥ 1.3 × TRL + PEFT, ≥ 1.0 × Unsloth; losses within 0.01 at every step",
            "; ".join(f"{value:.2f} × {name}" for name, value in times.items()) + f"; losses at most {apart:.4f} apart",
            all(value >= wants[name] for name, value in times.items()) and apart <= TOLERANCE,
            () if tiny else (f"{batch / median(seconds[OURS]):.2f} examples per second", _peak_share(files, seconds[OURS])),
        )
    ]  # fmt: skip


def _inputs(folder: Path, model: Path, steps: int, batch: int) -> list[Path]:
    """The first B1 examples as tokens (without the published data, built ones), and the settings of all ways."""
    from cefr_batch.config.load import load_spec
    from cefr_batch.data import load_dataset, prompt_format
    from cefr_batch.data.encoding import encode
    from cefr_batch.data.examples import list_format
    from cefr_batch.models.loading import load_tokenizer

    file = DATA / "training_data_b1_list_format_train.json"
    overrides = [f"data.train={file}", f"data.eval={file}"] if file.is_file() else ["data.examples=200"]
    spec = load_spec("B1", overrides=[*overrides, f"model.name={model}", "backend=peft"])
    examples = load_dataset(spec.data, spec.level).train[: steps * batch]
    prompts = prompt_format("alpaca", model)
    tokens = [one.ids for one in encode(load_tokenizer(model), prompts, examples, spec.training.max_length)]
    settings: dict[str, Any] = {
        "lora": {
            "r": spec.lora.rank, "lora_alpha": spec.lora.alpha, "lora_dropout": spec.lora.dropout,
            "target_modules": list(spec.lora.target_modules),
        },
        "trainer": {
            "max_steps": steps, "per_device_train_batch_size": batch, "gradient_accumulation_steps": 1,
            "learning_rate": spec.training.learning_rate, "warmup_steps": spec.training.warmup_ratio,
            "lr_scheduler_type": spec.training.lr_scheduler, "weight_decay": spec.training.weight_decay,
            "optim": "adamw_torch", "gradient_checkpointing": False, "logging_steps": 1, "save_strategy": "no",
            "seed": spec.training.seed, "data_seed": spec.training.seed, "max_length": spec.training.max_length,
            "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False,
        },
    }  # fmt: skip
    (folder / "train.json").write_bytes(list_format(examples))
    paths = [folder / "examples.json", folder / "settings.json"]
    for path, content in zip(paths, (tokens, settings), strict=True):
        path.write_text(json.dumps(content))
    return paths


def _peak_share(files: list[Path], seconds: list[float]) -> str:
    """Matrix products of a step, counted by torch, against the rate of the fastest bf16 product measured here.

    A frozen weight takes part in two products of 2 × inputs × outputs a token (forward, gradient of the input), a LoRA
    weight in three, the head in three (its forward is done again, since its logits are dropped).
    """
    examples, settings = (json.loads(file.read_text()) for file in files)
    rank, batch = settings["lora"]["r"], settings["trainer"]["per_device_train_batch_size"]
    config = json.loads((models.smollm2() / "config.json").read_text())
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    kv = hidden * config["num_key_value_heads"] // heads
    shapes = [(hidden, hidden)] * 2 + [(hidden, kv)] * 2 + [(hidden, inner)] * 2 + [(inner, hidden)]
    frozen = layers * sum(a * b for a, b in shapes)
    lora = layers * sum(rank * (a + b) for a, b in shapes)
    tokens = sum(map(len, examples)) / len(examples) * batch
    products = tokens * (4 * frozen + 6 * lora + 6 * hidden * config["vocab_size"])
    rate, peak = products / median(seconds) / 1e9, _fastest_product()
    share = f"{100 * rate / peak:.0f} % of the {peak:,.0f} GFLOP/s that a single bf16 product reaches by itself"
    return f"{rate:,.0f} GFLOP/s in matrix products, {share}"


def _fastest_product(size: int = 2048) -> float:
    import torch

    a, b = (torch.randn(size, size).to(torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.monotonic()
        torch.mm(a, b)
        best = min(best, time.monotonic() - started)
    return 2 * size**3 / best / 1e9
