"""Complete runs whose models can be evaluated: an adapter of random weights on the tiny model, and no training."""

from __future__ import annotations

from pathlib import Path

from support.job_runs import SETTINGS
from support.report_stores import A1, metrics

from cefr_batch.config.load import load_spec
from cefr_batch.data import Dataset, load_dataset
from cefr_batch.files import sha256_file
from cefr_batch.records import layout
from cefr_batch.records.manifest import Manifest
from cefr_batch.records.stages import StoredObject
from cefr_batch.records.timestamps import now
from cefr_batch.runner.submission import claim
from cefr_batch.store.datasets import store_dataset
from cefr_batch.store.local import LocalStore


def complete_run(store: LocalStore, model: Path, level: str, *extra: str, adapter: Path | None = None) -> str:
    """A run of this level that is complete, as far as an evaluation looks at it; without ``adapter`` it has none."""
    spec = load_spec(level, overrides=[f"model.name={model}", "model.alias=tiny", *SETTINGS, *extra])
    dataset = load_dataset(spec.data, spec.level)
    store_dataset(store, dataset)
    (run,) = claim(store, [(spec, dataset.sha256)])
    store.put_json(layout.run_key(run, layout.METRICS), metrics(run, level, A1))
    objects = []
    for file in sorted(adapter.iterdir()) if adapter else ():
        name = f"{layout.ADAPTER}/{file.name}"
        store.put_file(layout.run_key(run, name), file)
        objects.append(StoredObject(key=name, size=file.stat().st_size, sha256=sha256_file(file)))
    manifest = Manifest(run=run, complete_at=now(), objects=objects, summary=None)
    store.put_record(layout.run_key(run, layout.MANIFEST), manifest)
    return run


def dataset_of(level: str, model: Path, *extra: str) -> Dataset:
    """The data of ``complete_run``."""
    spec = load_spec(level, overrides=[f"model.name={model}", *SETTINGS, *extra])
    return load_dataset(spec.data, spec.level)


def random_adapter(model: Path, folder: Path, seed: int = 0) -> Path:
    """A LoRA adapter that changes the model much."""
    import torch
    from peft import LoraConfig, get_peft_model

    from cefr_batch.models.loading import load_for_evaluation

    torch.manual_seed(seed)
    adapted = get_peft_model(load_for_evaluation(model), LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, values in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(values, std=0.3)
    adapted.save_pretrained(folder)
    return folder
