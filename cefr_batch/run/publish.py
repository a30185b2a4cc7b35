"""The last stage: ``metrics.json`` and its company from the stages' records, ``manifest.json`` from what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cefr_batch import layout
from cefr_batch.files import read_json
from cefr_batch.launch.submission import now
from cefr_batch.layout import WorkDir
from cefr_batch.levels import RunSpec
from cefr_batch.numbers import reduction_percent
from cefr_batch.run.stages import STAGES
from cefr_batch.run.sync import Mirror
from cefr_batch.store.transfer import Item, hashes

# Objects that change after a run is complete, so no manifest can list them.
_MUTABLE = (layout.MANIFEST, layout.STATUS, layout.SUBMISSION)


# Results of a stage that are no numbers of the report: they are stored under these names.
_OBJECTS = (layout.EVALUATION, layout.GENERATION)
_PARTS = ("full", "response", "seen", "unseen", "seed_protocol")


def results(work: WorkDir, run: str, spec: RunSpec, attempts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The objects that the stages' results make, by name. ``attempts``: their records."""
    found = {stage: read_json(work.path(layout.stage_name(stage))) for stage in STAGES[:-1]}
    generated = found["generate"]["result"].get(layout.GENERATION)
    return {
        layout.METRICS: metrics(found, run, spec, attempts),
        layout.EVALUATION: _evaluation(found),
        **({layout.GENERATION: generated} if generated else {}),
    }


def metrics(
    records: Mapping[str, Any], run: str, spec: RunSpec, attempts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Every number of the report, with units in the names."""
    found: dict[str, Any] = {
        "run": run,
        "level": spec.level.value,
        "backend": spec.backend,
        "model": spec.model.name,
        "attempts": len(attempts),
        "repeated_steps": sum(attempt.get("repeated_steps", 0) for attempt in attempts),
        "stage_seconds": {},
    }
    for stage, record in records.items():
        found["stage_seconds"][stage] = record["seconds"]
        found |= {key: value for key, value in record["result"].items() if key not in _OBJECTS}
    found["reduction"] = {
        kind: {
            f"{what}_percent": reduction_percent(found["baseline"][kind][what], found["tuned"][kind][what])
            for what in ("loss", "perplexity")
        }
        for kind in _PARTS
        if found["baseline"].get(kind) and found["tuned"].get(kind)
    }
    return found


def _evaluation(records: Mapping[str, Any]) -> dict[str, Any]:
    """Each evaluation example's summed negative log-likelihoods (nats) and numbers of tokens, by part."""
    sides = [records[stage]["result"].get(layout.EVALUATION, []) for stage in ("baseline", "tuned")]
    return {
        "examples": [
            {"index": i, "tokens": tuned["tokens"], "baseline": baseline["nll"], "tuned": tuned["nll"]}
            for i, (baseline, tuned) in enumerate(zip(*sides, strict=False))
        ]
    }


def manifest(mirror: Mirror) -> dict[str, Any]:
    """Every object of the run with its size and SHA-256; hashes known from the stages and checkpoints are reused."""
    prefix = layout.run_key(mirror.run) + "/"
    named = {stored.key.removeprefix(prefix): stored for stored in mirror.store.objects(prefix)}
    listed = {name: stored for name, stored in named.items() if name not in _MUTABLE}
    known = _known_hashes(mirror)
    read = hashes(mirror.store, [Item(o.key, o.size, None) for name, o in listed.items() if name not in known])
    objects = [{"key": name, "size": o.size, "sha256": known.get(name) or read[o.key]} for name, o in listed.items()]
    return {"run": mirror.run, "complete_at": now(), "objects": objects}


def _known_hashes(mirror: Mirror) -> dict[str, str]:
    known: dict[str, str] = {}
    for stage in mirror.stored_stages():
        for item in mirror.store.get_json(mirror.key(layout.stage_name(stage)))["objects"]:
            known[item["key"]] = item["sha256"]
    for step in mirror.stored_checkpoints():
        name = layout.checkpoint_name(step)
        for item in mirror.store.get_json(mirror.key(f"{name}/{layout.CHECKPOINT_MANIFEST}"))["files"]:
            known[f"{name}/{item['name']}"] = item["sha256"]
    return known
