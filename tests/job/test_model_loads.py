"""A job loads the base model no oftener than it must: see "What a job loads" in docs/benchmarks.md."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from support.job_runs import SETTINGS, work_folder
from transformers import AutoModelForCausalLM

from cefr_batch.config.load import load_spec
from cefr_batch.job.context import StageContext
from cefr_batch.job.stages import run_stage, stages_of

# The process of the trained model loads the base once to add the adapter, and the merged model once as a user will.
LOADS = {"baseline": ["tiny-llama"], "train": ["tiny-llama"], "tuned": ["tiny-llama", "merged"]}


@pytest.mark.slow
def test_each_process_loads_a_model_once(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = AutoModelForCausalLM.from_pretrained

    def counted(path: Any, *arguments: Any, **settings: Any) -> Any:
        loaded.append(Path(path).name)
        return load(path, *arguments, **settings)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
    spec = load_spec("A2", overrides=[f"model.name={tiny_model}", *SETTINGS])
    work = work_folder(tmp_path / "run", spec)
    found: dict[str, list[str]] = {}
    for process, stages in groupby(stages_of(spec), key=lambda stage: stage.process):
        context = StageContext(work)
        for stage in stages if process != "job" else ():
            run_stage(context, stage.name)
        found[process] = loaded[:]
        loaded.clear()
    assert {process: names for process, names in found.items() if process != "job"} == LOADS
