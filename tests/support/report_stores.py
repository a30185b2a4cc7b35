"""Stores with runs of known figures, written as a job writes them. The B1 figures are the first published ones."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cefr_batch.config.schema import RunSpec
from cefr_batch.records import layout
from cefr_batch.records.figures import perplexity, reduction_percent
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.timestamps import now
from cefr_batch.report.collect import Report
from cefr_batch.report.render import markdown_report
from cefr_batch.store.local import LocalStore

PARTS = ("full", "response", "seen", "unseen")
SHA = {"A1": "a1" * 32, "A2": "a2" * 32, "B1": "b1" * 32, "B2": "b2" * 32, "C1": "c1" * 32}


@dataclass(frozen=True)
class Figures:
    """What a complete run's metrics are made from."""

    examples: tuple[int, int]
    words: int
    longest: int
    steps: int
    seconds: float
    train_losses: tuple[tuple[int, float], ...]
    eval_losses: tuple[tuple[int, float], ...]
    full: tuple[float, float]
    response: tuple[float, float]
    seed_protocol: tuple[float, float]
    leakage: tuple[float, float] = (0.0, 100.0)
    extra: dict[str, Any] = field(default_factory=dict)

    def epoch(self, step: int) -> float:
        """As the trainer counts it: batches of 16, 4 of them a step, the last step of an epoch cut short."""
        batches = math.ceil(self.examples[0] / 16)
        whole, rest = divmod(step, math.ceil(batches / 4))
        return whole + rest * 4 / batches


A1 = Figures(
    examples=(160, 20),
    words=178,
    longest=230,
    steps=30,
    seconds=31.27,
    train_losses=((10, 1.951), (20, 0.702), (30, 0.413)),
    eval_losses=((10, 1.204), (20, 0.655), (30, 0.571)),
    full=(1.903, 0.571),
    response=(2.108, 0.702),
    seed_protocol=(2.402, 0.841),
)
A2 = Figures(
    examples=(1800, 200),
    words=867,
    longest=231,
    steps=290,
    seconds=3725.04,
    train_losses=((10, 1.874), (150, 0.441), (290, 0.381)),
    eval_losses=((50, 0.683), (100, 0.549), (150, 0.5140), (200, 0.5096), (250, 0.5112)),
    full=(1.841, 0.5096),
    response=(2.054, 0.6107),
    seed_protocol=(2.309, 0.7526),
    leakage=(98.05, 100.0),
)
B1 = Figures(
    examples=(1800, 200),
    words=806,
    longest=290,
    steps=290,
    seconds=402.4,
    train_losses=((10, 1.82), (150, 0.40), (290, 0.34)),
    eval_losses=((50, 0.61), (100, 0.45), (150, 0.43), (200, 0.426), (250, 0.44)),
    full=(1.795, 0.426),
    response=(1.999, 0.508),
    seed_protocol=(2.336, 0.732),
    leakage=(99.0, 100.0),
    extra={
        "attempts": 3,
        "machine": {"cpu": "AMD Ryzen 9", "threads": 16, "gpu": "NVIDIA RTX 4090", "gpu_memory_gb": 24.0},
        "versions": {"transformers": "5.15.0", "torch": "2.9.0"},
        "evaluation": {"examples": 200, "batch_size": 8},
        "merge": {"adapter_loss": 0.42613, "merged_loss": 0.42615, "examples": 16},
    },
)


def spec(level: str, **overrides: Any) -> dict[str, Any]:
    """A resolved spec as jobs/base.yaml gives it; overrides by dotted key with ``__`` for the dot."""
    resolved: dict[str, Any] = {
        "level": level,
        "backend": "unsloth",
        "model": {"name": "unsloth/Llama-3.2-1B-Instruct", "revision": None, "alias": "llama1b", "load_in_4bit": True},
        "data": {"source": "starter", "train": None, "eval": None, "words_per_example": 10, "split_by": "sentence"},
        "lora": {"rank": 128, "alpha": 256, "dropout": 0.05, "target_modules": ["q_proj", "v_proj"]},
        "training": {
            "epochs": 10,
            "max_steps": None,
            "max_length": 512,
            "batch_size": 16,
            "gradient_accumulation_steps": 4,
            "learning_rate": 2e-4,
            "seed": 42,
        },
        "evaluation": {"batch_size": 8, "max_examples": None},
    }
    for key, value in overrides.items():
        part, _, name = key.partition("__")
        resolved[part] = {**resolved[part], name: value} if name else value
    return resolved


def metrics(run: str, level: str, figures: Figures) -> dict[str, Any]:
    """``metrics.json`` as the publish stage writes it."""

    def at(step: int) -> dict[str, Any]:
        return {"step": step, "epoch": round(figures.epoch(step), 4)}

    def scores(which: int) -> dict[str, Any]:
        tokens = {"full": 250 * figures.examples[1], "response": 180 * figures.examples[1]}
        losses = {"full": figures.full[which], "response": figures.response[which]}
        both: dict[str, Any] = {
            k: {"loss": v, "perplexity": perplexity(v), "tokens": tokens[k]} for k, v in losses.items()
        }
        seed = figures.seed_protocol[which]
        return {**both, "seed_protocol": {"loss": seed, "perplexity": perplexity(seed)}}

    before, after = scores(0), scores(1)
    trained = [{**at(s), "loss": v, "learning_rate": 1e-4, "gradient_norm": 0.5} for s, v in figures.train_losses]
    evaluated = [{**at(s), "eval_loss": v} for s, v in figures.eval_losses]
    epochs = figures.epoch(figures.steps)
    return {
        "run": run,
        "level": level,
        "backend": "unsloth",
        "model": "unsloth/Llama-3.2-1B-Instruct",
        "attempts": 1,
        "data": {
            "train_examples": figures.examples[0],
            "eval_examples": figures.examples[1],
            "unique_words": figures.words,
            "longest_example_tokens": figures.longest,
            "train_sha256": "0" * 64,
            "eval_sha256": "1" * 64,
        },
        "leakage": {"sentences_percent": figures.leakage[0], "words_percent": figures.leakage[1]},
        "baseline": before,
        "tuned": after,
        "train": {
            "examples": figures.examples[0],
            "steps": figures.steps,
            "epochs": epochs,
            "duration_seconds": figures.seconds,
            "samples_per_second": figures.examples[0] * epochs / figures.seconds,
            "final_loss": figures.train_losses[-1][1],
        },
        "log": sorted([*trained, *evaluated], key=lambda e: e["step"]),
        "best": min(evaluated, key=lambda e: e["eval_loss"], default=None),
        "reduction": {
            kind: {
                f"{what}_percent": reduction_percent(before[kind][what], after[kind][what])
                for what in ("loss", "perplexity")
            }
            for kind in ("full", "response", "seed_protocol")
        },
        **figures.extra,
    }


def add_spec(store: LocalStore, run: str, level: str, at: str = "2025-10-26T12:00:00+00:00", **overrides: Any) -> None:
    record = {
        "run": run,
        "dataset": SHA[level],
        "spec": spec(level, **overrides),
        "code_version": "0.1.0",
        "submitted_at": at,
    }
    store.put_json(layout.run_key(run, layout.SPEC), record)


def add_complete(store: LocalStore, run: str, level: str, figures: Figures, **kwargs: Any) -> dict[str, Any]:
    """A complete run; returns its metrics, which the caller may spoil and store again."""
    add_spec(store, run, level, **kwargs)
    made = metrics(run, level, figures)
    store.put_json(layout.run_key(run, layout.METRICS), made)
    sizes = {
        "adapter/adapter_config.json": 812,
        "adapter/adapter_model.safetensors": 360_816_144,
        "logs/attempt-1.log": 20_417,
        "merged/config.json": 910,
        "merged/model.safetensors": 2_471_645_608,
        **{f"plots/{name}.png": 98_000 for name in layout.PLOT_NAMES},
        "tensorboard/events.out.tfevents.1": 41_223,
    }
    objects = [{"key": key, "size": n, "sha256": "f" * 64} for key, n in sizes.items()]
    manifest = {"run": run, "complete_at": "2025-10-26T13:07:11+00:00", "objects": objects}
    store.put_json(layout.run_key(run, layout.MANIFEST), manifest)
    return copy.deepcopy(made)


def add_object(store: LocalStore, run: str, name: str, value: Any) -> None:
    """One more object of a complete run, in its manifest too."""
    store.put_json(layout.run_key(run, name), value)
    seal(store, run, name)


def set_spec(store: LocalStore, run: str, spec: RunSpec, dataset: str) -> None:
    """The settings of a complete run."""
    record = SpecRecord(run=run, dataset=dataset, spec=spec.model_dump(mode="json"), submitted_at=now())
    store.put_record(layout.run_key(run, layout.SPEC), record)
    seal(store, run, layout.SPEC)


def seal(store: LocalStore, run: str, *names: str) -> None:
    """List these objects of a complete run in its manifest as they are now."""
    manifest = store.get_json(layout.run_key(run, layout.MANIFEST))
    objects = {one["key"]: one for one in manifest["objects"]}
    for name in names:
        data = store.get(layout.run_key(run, name))
        objects[name] = {"key": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["objects"] = [objects[name] for name in sorted(objects)]
    store.put_json(layout.run_key(run, layout.MANIFEST), manifest)


def add_examples(store: LocalStore, run: str, baseline: Iterable[float], tuned: Iterable[float], sha256: str) -> None:
    """A complete run's ``evaluation.json``: summed losses of examples of 100 tokens, of the evaluation file ``sha256``."""
    examples = [
        {
            "index": i,
            "tokens": dict.fromkeys(PARTS, 100),
            "baseline": dict.fromkeys(PARTS, b),
            "tuned": dict.fromkeys(PARTS, t),
        }
        for i, (b, t) in enumerate(zip(map(float, baseline), map(float, tuned), strict=True))
    ]
    add_object(store, run, layout.EVALUATION, {"examples": examples})
    made = store.get_json(layout.run_key(run, layout.METRICS))
    made["data"]["eval_sha256"] = sha256
    store.put_json(layout.run_key(run, layout.METRICS), made)


def add_unfinished(store: LocalStore, run: str, level: str, state: str, message: str = "", **kwargs: Any) -> None:
    """A run whose job, on another machine, said this last (just now)."""
    add_spec(store, run, level, **kwargs)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    submission = {
        "run": run,
        "cluster": "local",
        "handle": "local://gpu-server/4242",
        "submitted_at": "2025-10-26T12:00:00+00:00",
        "submitted_by": "ada",
        "cancelled_at": None,
    }
    status = {
        "run": run,
        "attempt": 1,
        "state": state,
        "stage": "train",
        "stages_done": ["data", "baseline"],
        "step": 120,
        "steps": 290,
        "epoch": 4.14,
        "loss": 0.51,
        "eval_loss": None,
        "eta_seconds": None,
        "updated_at": now,
        "host": "gpu-server",
        "pid": 4242,
        "message": message,
    }
    store.put_json(layout.run_key(run, layout.SUBMISSION), submission)
    store.put_json(layout.run_key(run, layout.STATUS), status)


def three_levels(folder: Path) -> LocalStore:
    """A1, A2 and B1, each complete once."""
    store = LocalStore(folder)
    add_complete(store, "llama1b-a1-unsloth-v1", "A1", A1)
    ready = {"data__source": None, "data__train": "/data/a2_train.json", "data__eval": "/data/a2_eval.json"}
    add_complete(store, "llama1b-a2-unsloth-v1", "A2", A2, **ready)
    add_complete(store, "llama1b-b1-unsloth-v1", "B1", B1, **{k: v and v.replace("a2", "b1") for k, v in ready.items()})
    assert math.isclose(perplexity(2.336), 10.34, abs_tol=0.005)
    return store


def written(level: str) -> dict[str, Any]:
    """``generation.json``: two examples, of which the untrained model answers the second one out of form."""
    words = ["travel", "decide"]
    good = "1. I travel by train.\n2. We decide today."
    bad = "Sure! Here are sentences <b>for you</b>"
    examples = [
        {
            "index": 0,
            "words": words,
            "baseline": {"greedy": good, "sampled": bad},
            "tuned": {"greedy": good, "sampled": good},
        },
        {
            "index": 1,
            "words": words,
            "baseline": {"greedy": bad, "sampled": bad},
            "tuned": {"greedy": good, "sampled": good},
        },
    ]
    return {"examples": examples, "level": level}


def quality(share: float) -> dict[str, Any]:
    return {
        "answers": 2,
        "sentences": 20,
        "well_formed_percent": share,
        "words_used_percent": share,
        "copied_percent": 12.5,
        "duplicate_percent": 0.0,
        "words_per_sentence": 5.25,
        "at_or_below_level_percent": share,
        "unknown_words_percent": 1.0,
        "readability_grade": None,
        "near_copied_percent": 17.5,
        "distinct_words_percent": 61.9,
        "distinct_word_pairs_percent": 92.86,
        "repeated_openings_percent": share / 4,
    }


def add_generation(store: LocalStore, run: str, level: str) -> None:
    """A complete run's generated sentences, and what was counted in them."""
    add_object(store, run, layout.GENERATION, written(level))
    made = store.get_json(layout.run_key(run, layout.METRICS))
    made["generation"] = {
        "baseline": {"greedy": quality(50.0), "sampled": quality(0.0)},
        "tuned": {"greedy": quality(100.0), "sampled": quality(95.5)},
    }
    store.put_json(layout.run_key(run, layout.METRICS), made)


def add_split(store: LocalStore, run: str) -> None:
    """A complete run's losses over seen and unseen evaluation sentences."""
    made = store.get_json(layout.run_key(run, layout.METRICS))
    for when, seen, unseen in (("baseline", 2.0, 2.1), ("tuned", 0.5, 1.6)):
        for key, loss, tokens in (("seen", seen, 24_000), ("unseen", unseen, 310)):
            made[when][key] = {"loss": loss, "perplexity": perplexity(loss), "tokens": tokens}
    store.put_json(layout.run_key(run, layout.METRICS), made)


def full_report(store: LocalStore) -> LocalStore:
    """A store with everything that a report can show: A1, A2 and B1 complete (B1 with three seeds, intervals, generated
    sentences, seen and unseen ones, published figures), a newer A2 that failed, B2 running, C1 missing."""
    import numpy as np

    three_levels(store.root)
    for seed in (43, 44):
        figures = replace(B1, full=(1.795, 0.426 + seed / 10_000))
        add_complete(store, f"llama1b-b1-unsloth-v{seed}", "B1", figures, training__seed=seed,
                     data__source=None, data__train="/data/b1_train.json", data__eval="/data/b1_eval.json")  # fmt: skip
    for level, n in (("A1", 20), ("A2", 200), ("B1", 200)):
        for run in [r for r in store.folders("runs/") if f"-{level.lower()}-" in r]:
            full = {
                k: store.get_json(layout.run_key(run, layout.METRICS))[k]["full"]["loss"] for k in ("baseline", "tuned")
            }
            noise = np.random.default_rng(n).normal(0, 5, n)
            add_examples(store, run, 100 * full["baseline"] + noise, 100 * full["tuned"] + noise / 4, sha256=level)
            add_generation(store, run, level)
    add_split(store, "llama1b-b1-unsloth-v44")
    add_unfinished(store, "llama1b-a2-unsloth-v2", "A2", "FAILED", "no space left", at="2025-10-27T08:00:00+00:00")
    add_unfinished(store, "llama1b-b2-unsloth-v1", "B2", "RUNNING")
    for level in ("A1", "B1"):
        for run in [r for r in store.folders("runs/") if f"-{level.lower()}-" in r]:
            record = store.get_json(layout.run_key(run, layout.SPEC))
            figures_published = {"unique_words": "~178", "seed_protocol_loss_reduction_percent": "68.7"}
            record["spec"]["reference"] = {"source": "the first report", "figures": figures_published}
            store.put_json(layout.run_key(run, layout.SPEC), record)
    return store


def report_markdown(report: Report, language: str = "en") -> str:
    return markdown_report(report, language)
