"""The adapters of several runs for vLLM: one server, one base model, a model name for each run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cefr_batch.cards.model_card import write_card
from cefr_batch.config.schema import ModelSpec, RunSpec
from cefr_batch.data.chat_template import FILE as CHAT_TEMPLATE
from cefr_batch.errors import ExportError
from cefr_batch.files import write_bytes
from cefr_batch.models.resolve import is_on_hub, resolve_model
from cefr_batch.records import layout
from cefr_batch.records.metrics import Metrics
from cefr_batch.runner.artifacts import Progress, no_progress, select_artifacts
from cefr_batch.runner.submission import read_spec
from cefr_batch.store.base import Store

SCRIPT = "serve-vllm.sh"
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of which vLLM takes --max-lora-rank


@dataclass(frozen=True)
class _Adapter:
    run: str
    spec: RunSpec
    revision: str | None
    folder: Path


def export_vllm(store: Store, runs: Sequence[str], out: Path, progress: Progress = no_progress) -> Path:
    """Fetch the runs' adapters to ``out``/<run>/adapter and write the script that serves all of them; return its path.

    Idempotent. Raises ``ExportError`` for adapters that one server cannot serve, ``StoreError`` where the store fails.
    """
    adapters = [_fetched(store, run, out, progress) for run in runs]
    script = out / SCRIPT
    write_bytes(script, _script(adapters).encode())
    script.chmod(0o755)
    return script


def _fetched(store: Store, run: str, out: Path, progress: Progress) -> _Adapter:
    adapter = select_artifacts(store, run, [layout.ADAPTER])
    revision = adapter.documents.get_record(layout.run_key(run, layout.METRICS), Metrics).model_revision
    adapter.fetch(out / run, progress)
    folder = out / run / layout.ADAPTER
    write_card(folder, adapter.documents, run, "adapter")
    return _Adapter(run, read_spec(adapter.documents, run), revision, folder)


def _script(adapters: Sequence[_Adapter]) -> str:
    first = adapters[0]
    _require_one_base(adapters)
    base, revision = _base(first.spec.model), first.revision
    command = ["vllm", "serve", base, *(["--revision", revision] if revision and base == first.spec.model.name else [])]
    command += [
        "--enable-lora",
        "--max-loras",
        str(len(adapters)),
        "--max-lora-rank",
        str(_rank(adapters)),
        "--lora-modules",
    ]
    command += [f"{one.run}=./{one.run}/{layout.ADAPTER}" for one in adapters]
    own = f"./{first.run}/{layout.ADAPTER}"
    command += ["--chat-template", f"{own}/{CHAT_TEMPLATE}", "--generation-config", own]
    command += ["--override-generation-config", '{"temperature": 0}']
    names = ", ".join(one.run for one in adapters)
    return (
        "#!/bin/sh\n"
        f'# vLLM with one base model and the adapters of {names}: name one of them as "model" in a request.\n'
        "# The chat template makes the prompt that they were trained with; answers are the most probable ones.\n"
        'cd "$(dirname "$0")" || exit 1\n'
        f'exec {shlex.join(command)} "$@"\n'
    )


def _require_one_base(adapters: Sequence[_Adapter]) -> None:
    """One server has one base model and one chat template."""
    first, template = adapters[0], _template(adapters[0])
    for one in adapters[1:]:
        differing = [
            name
            for name, here, there in (
                ("base model", one.spec.model.name, first.spec.model.name),
                ("revision of the base model", one.revision, first.revision),
                ("chat template", _template(one), template),
            )
            if here != there
        ]
        if differing:
            raise ExportError(
                f"{one.run} and {first.run} differ in their {' and '.join(differing)}, so one server cannot serve both; "
                "export them to different folders"
            )


def _template(adapter: _Adapter) -> str:
    file = adapter.folder / CHAT_TEMPLATE
    if not file.is_file():
        raise ExportError(
            f"the adapter of {adapter.run} has no {CHAT_TEMPLATE}: an earlier version trained it. Serve its merged model: "
            f"`cefr-batch pull {adapter.run} --only merged`"
        )
    return file.read_text(encoding="utf-8")


def _base(model: ModelSpec) -> str:
    """What vLLM loads: the hub's name, or the folder that this machine has of another model."""
    return model.name if is_on_hub(model) else str(resolve_model(model))


def _rank(adapters: Sequence[_Adapter]) -> int:
    highest = max(one.spec.lora.rank for one in adapters)
    fitting = [rank for rank in _RANKS if rank >= highest]
    if not fitting:
        raise ExportError(
            f"vLLM serves adapters of rank {_RANKS[-1]} at most, and one has {highest}; serve the merged model"
        )
    return fitting[0]
