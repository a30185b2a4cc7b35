"""Runs in a store as jobs leave them, with made-up content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

from support.report_stores import A1, metrics

from cefr_batch.records import layout
from cefr_batch.records.manifest import Manifest, RunSummary
from cefr_batch.records.metrics import Metrics
from cefr_batch.records.stages import StoredObject
from cefr_batch.runner.submission import read_submission
from cefr_batch.store import Store

OBJECTS = {
    "adapter/adapter_config.json": b"{}",
    "adapter/adapter_model.safetensors": bytes(range(256)) * 40,
    "checkpoints/step-6/checkpoint.json": b'{"step": 6}',
    "checkpoints/step-6/weights": b"w" * 5000,
    "logs/attempt-1.log": b"a line\n",
    "merged/model.safetensors": bytes(range(255, -1, -1)) * 300,
    "plots/training_loss.png": b"png",
    "stages/train.json": b"{}",
    "tensorboard/events.out.tfevents.1": b"e" * 100,
}


def days_ago(days: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(days=days)).isoformat(timespec="seconds")


def spec(run: str, submitted_at: str) -> dict[str, object]:
    """A ``spec.json``, as far as it is looked at."""
    return {"run": run, "dataset": "0" * 64, "spec": {"backend": "peft"}, "submitted_at": submitted_at}


def add_complete(
    store: Store, run: str, objects: Mapping[str, bytes] = OBJECTS, *, submitted_at: str = "2026-01-01T00:00:00+00:00"
) -> None:
    figures = metrics(run, "B1", A1)
    figures["train"] |= {"steps": 12, "epochs": 2.0, "final_loss": 1.0}
    figures["best"] = {"step": 12, "epoch": 2.0, "eval_loss": 1.5}
    store.put_json(layout.run_key(run, layout.SPEC), spec(run, submitted_at))
    store.put_json(layout.run_key(run, layout.METRICS), figures)
    for name, data in objects.items():
        store.put(layout.run_key(run, name), data)
    add_submission(store, run, submitted_at)
    names = [*objects, layout.SPEC, layout.METRICS]
    listed = []
    for name in sorted(names):
        data = store.get(layout.run_key(run, name))
        listed.append({"key": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    summary = RunSummary.of(Metrics.model_validate(figures), read_submission(store, run))
    objects_listed = [StoredObject.model_validate(one) for one in listed]
    manifest = Manifest(run=run, complete_at=submitted_at, objects=objects_listed, summary=summary)
    store.put_record(layout.run_key(run, layout.MANIFEST), manifest)


def add_submission(store: Store, run: str, submitted_at: str, cancelled_at: str | None = None) -> None:
    """Of a job that is gone: no process of this machine has that number."""
    import socket

    record = {"run": run, "cluster": "local", "handle": f"local://{socket.gethostname()}/4194305"}
    times = {"submitted_at": submitted_at, "submitted_by": "me", "cancelled_at": cancelled_at}
    store.put_json(layout.run_key(run, layout.SUBMISSION), {**record, **times, "attempts_before": 0})


def add_ended(store: Store, run: str, state: str, at: str) -> None:
    """A run whose job said ``state`` at a time, or was killed while it said RUNNING."""
    from support.stand_in import status

    store.put_json(layout.run_key(run, layout.SPEC), spec(run, at))
    add_submission(store, run, at, cancelled_at=at if state == "CANCELLED" else None)
    said = "PREEMPTED" if state == "CANCELLED" else state
    store.put_json(layout.run_key(run, layout.STATUS), status(run, said, updated_at=at, message="it failed"))
    store.put(layout.run_key(run, "logs/attempt-1.log"), b"a line\n")
    store.put(layout.run_key(run, "checkpoints/step-3/weights"), b"w" * 1000)
