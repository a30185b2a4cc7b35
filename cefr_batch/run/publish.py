"""The last stage: ``metrics.json`` from the stages' records, ``manifest.json`` from what is stored."""

from __future__ import annotations

from typing import Any

from cefr_batch import layout
from cefr_batch.files import read_json, sha256_file
from cefr_batch.launch.submission import now
from cefr_batch.layout import WorkDir
from cefr_batch.levels import RunSpec
from cefr_batch.numbers import reduction_percent
from cefr_batch.run.stages import STAGES
from cefr_batch.run.sync import Mirror

# Objects that change after a run is complete, so no manifest can list them.
_MUTABLE = (layout.MANIFEST, layout.STATUS, layout.SUBMISSION)


def metrics(work: WorkDir, run: str, spec: RunSpec, attempts: int) -> dict[str, Any]:
    """Every number of the report, with units in the names."""
    found: dict[str, Any] = {
        "run": run,
        "level": spec.level.value,
        "backend": spec.backend,
        "model": spec.model.name,
        "attempts": attempts,
        "stage_seconds": {},
    }
    for stage in STAGES[:-1]:
        record = read_json(work.path(layout.stage_name(stage)))
        found["stage_seconds"][stage] = record["seconds"]
        found |= record["result"]
    found["reduction"] = {
        kind: {
            f"{what}_percent": reduction_percent(found["baseline"][kind][what], found["tuned"][kind][what])
            for what in ("loss", "perplexity")
        }
        for kind in ("full", "response", "seed_protocol")
    }
    return found


def manifest(mirror: Mirror) -> dict[str, Any]:
    """Every object of the run with its size and SHA-256; hashes known from the stages and checkpoints are reused."""
    known = _known_hashes(mirror)
    prefix = layout.run_key(mirror.run) + "/"
    objects = []
    for stored in mirror.store.objects(prefix):
        name = stored.key.removeprefix(prefix)
        if name not in _MUTABLE:
            sha256 = known.get(name) or _hash_stored(mirror, stored.key)
            objects.append({"key": name, "size": stored.size, "sha256": sha256})
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


def _hash_stored(mirror: Mirror, key: str) -> str:
    copy = mirror.work.tmp / "hash"
    mirror.store.get_file(key, copy)
    return sha256_file(copy)
