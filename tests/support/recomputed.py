"""Every figure of a report, computed again from what a run leaves: dataset, checkpoint, adapter, evaluation tokens.

Shares no code with what it checks: plain loops, one example at a time, no batch, no padding but the seed's own.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.near_by_definition import near_any

Example = dict[str, str]


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def sentences(example: Example) -> list[str]:
    return [line.split(". ", 1)[1].strip() for line in example["output"].splitlines() if re.match(r"\d+\. ", line)]


def words(example: Example) -> list[str]:
    return [line.split(". ", 1)[1].strip().casefold() for line in example["instruction"].splitlines()
            if re.match(r"\d+\. ", line)]  # fmt: skip


def share(found: Counter[str], known: set[str]) -> float:
    return 100 * sum(n for text, n in found.items() if text in known) / sum(found.values())


@dataclass(frozen=True)
class Losses:
    """Of one model: each example's token losses, where its response begins among them, and of which sentence each is."""

    tokens: list[list[float]]
    starts: list[int]
    owners: list[list[str | None]]
    seed_protocol: float

    def mean(self, response: bool) -> float:
        chosen = [
            x for row, start in zip(self.tokens, self.starts, strict=True) for x in row[start if response else 0 :]
        ]
        return math.fsum(chosen) / len(chosen)


def losses(model: Any, tokenizer: Any, examples: list[Example], max_length: int) -> Losses:
    import torch

    def of(ids: list[int], real: int) -> list[float]:
        mask = torch.tensor([[1] * real + [0] * (len(ids) - real)])
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids]), attention_mask=mask).logits[0, :-1].double()
        picked = logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        return [-float(x) for x in picked]

    rows, starts, owners, encoded = [], [], [], []
    for example in examples:
        prompt = f"### Instruction:\n{example['instruction']}\n\n### Response:\n"
        whole = tokenizer(prompt + example["output"] + tokenizer.eos_token, return_offsets_mapping=True)
        ids = whole.input_ids[:max_length]
        rows.append(of(ids, len(ids)))
        owners.append(owners_of(example, prompt, whole.offset_mapping[1:max_length]))
        without_end = tokenizer(prompt + example["output"]).input_ids  # as in the first report
        encoded.append(without_end[:max_length])
        starts.append(len(tokenizer(prompt).input_ids) - 1)
    total = weight = 0.0
    for first in range(0, len(examples), 4):
        group = encoded[first : first + 4]
        width = max(map(len, group))
        padded = [of(ids + [tokenizer.pad_token_id] * (width - len(ids)), len(ids)) for ids in group]
        real = sum(map(len, group))
        total += real * sum(map(sum, padded)) / sum(map(len, padded))
        weight += real
    return Losses(rows, starts, owners, total / weight)


def owners_of(example: Example, prompt: str, offsets: list[tuple[int, int]]) -> list[str | None]:
    """The sentence of each token that has a character of one."""
    text, at, owner = prompt + example["output"], len(prompt), dict[int, str]()
    for sentence in sentences(example):
        at = text.index(sentence, at)
        owner |= dict.fromkeys(range(at, at + len(sentence)), sentence)
        at += len(sentence)
    return [next((owner[c] for c in range(*span) if c in owner), None) for span in offsets]


def units(losses: Losses) -> list[float]:
    """Summed losses of what is independent: of each different sentence, with its share of what is of none, if examples have
    sentences in common; otherwise of each example."""
    by_example = [sorted({owner for owner in row if owner}) for row in losses.owners]
    if len({s for row in by_example for s in row}) == sum(map(len, by_example)):
        return [sum(row) for row in losses.tokens]
    sums: dict[str, float] = {}
    for row, owners, own in zip(losses.tokens, losses.owners, by_example, strict=True):
        rest = sum(loss for loss, owner in zip(row, owners, strict=True) if owner is None)
        for sentence in own:
            of_it = sum(loss for loss, owner in zip(row, owners, strict=True) if owner == sentence)
            sums[sentence] = sums.get(sentence, 0.0) + of_it + rest / len(own)
    return list(sums.values())


def both_models(folder: Path, spec: Mapping[str, Any], base: Path, examples: list[Example]) -> tuple[Losses, Losses]:
    """The untrained model's, and those of it with the stored adapter."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "merged")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    length = spec["training"]["max_length"]
    before = losses(model, tokenizer, examples, length)
    tuned = PeftModel.from_pretrained(model, folder / "adapter").eval()
    return before, losses(tuned, tokenizer, examples, length)


@dataclass(frozen=True)
class Recomputed:
    """``columns``: by the name of the CSV's column. ``baseline``, ``tuned``: summed losses of the ``units``."""

    columns: dict[str, float]
    curve: dict[int, tuple[float | None, float | None]]  # step -> training loss, evaluation loss
    baseline: list[float]
    tuned: list[float]


def recompute(store: Path, run: str, base: Path) -> Recomputed:
    from transformers import AutoTokenizer

    folder = store / "runs" / run
    record = read(folder / "spec.json")
    data = store / "datasets" / record["dataset"]
    train, held_out = (read(data / name) for name in ("train.json", "eval.json"))
    evaluated = held_out[: record["spec"]["evaluation"]["max_examples"]]
    tokenizer = AutoTokenizer.from_pretrained(folder / "merged")
    prompts = [f"### Instruction:\n{e['instruction']}\n\n### Response:\n{e['output']}" for e in (*train, *held_out)]
    longest = max(len(tokenizer(prompt + tokenizer.eos_token).input_ids) for prompt in prompts)
    known = {sentence for example in train for sentence in sentences(example)}
    asked = Counter(s for e in held_out for s in sentences(e))
    columns: dict[str, float] = {
        "train_examples": len(train),
        "unique_words": len({word for example in (*train, *held_out) for word in words(example)}),
        "longest_example_tokens": longest,
        "leaked_sentences_percent": share(asked, known),
        "near_leaked_sentences_percent": share(asked, {s for s in asked if near_any(s, known)}),
        "eval_examples": len(evaluated),
    }
    before, after = both_models(folder, record["spec"], base, evaluated)
    columns |= of_losses(before, after)
    curve, from_trainer = of_trainer(folder, record["spec"]["training"]["logging_steps"])
    columns |= from_trainer
    return Recomputed(columns, curve, units(before), units(after))


def of_losses(before: Losses, after: Losses) -> dict[str, float]:
    columns: dict[str, float] = {}
    ways: dict[str, Callable[[Losses], float]] = {
        "full": lambda one: one.mean(response=False),
        "response": lambda one: one.mean(response=True),
        "seed_protocol": lambda one: one.seed_protocol,
    }
    for way, mean in ways.items():
        x, y = mean(before), mean(after)
        columns |= {f"baseline_{way}_loss": x, f"tuned_{way}_loss": y}
        columns |= {f"baseline_{way}_perplexity": math.e**x, f"tuned_{way}_perplexity": math.e**y}
        prefix = "" if way == "full" else f"{way}_"
        columns[f"{prefix}loss_reduction_percent"] = (x - y) / x * 100
        columns[f"{prefix}perplexity_reduction_percent"] = 100 - 100 * math.e ** (y - x)
    columns["tuned_response_perplexity"] = math.e ** after.mean(response=True)
    return columns


def of_trainer(
    folder: Path, logging_steps: int
) -> tuple[dict[int, tuple[float | None, float | None]], dict[str, float]]:
    """From ``trainer_state.json`` of the last checkpoint, which holds every step's loss."""
    last = max(folder.glob("checkpoints/step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    state = read(last / "trainer_state.json")
    steps = {e["step"]: e["loss"] for e in state["log_history"] if "loss" in e}
    evaluated = {e["step"]: e["eval_loss"] for e in state["log_history"] if "eval_loss" in e}
    end = max(steps)
    ends = [step for step in steps if step % logging_steps == 0 or step == end]
    trained = {}
    for previous, step in zip([0, *ends], ends, strict=False):
        window = [steps[s] for s in range(previous + 1, step + 1)]
        trained[step] = sum(window) / len(window)
    best = min(evaluated, key=lambda step: (evaluated[step], step))
    curve = {s: (trained.get(s), evaluated.get(s)) for s in sorted({*trained, *evaluated})}
    found = {"steps": end, "final_train_loss": trained[end], "best_eval_loss": evaluated[best], "best_step": best}
    return curve, {**found, "epochs": state["epoch"]}


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
