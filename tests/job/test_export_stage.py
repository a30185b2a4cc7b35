"""Must show: the stage's exports are stored with the run, and whatever happens to them, the run is complete."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support.exports import StandInConverter, merged_folder
from support.job_runs import work_folder
from support.released import released_store

from cefr_batch.config.load import load_spec
from cefr_batch.errors import JobFailed
from cefr_batch.export import gguf, make
from cefr_batch.job.context import StageContext
from cefr_batch.job.stages import BY_NAME, run_stage, stages_of
from cefr_batch.job.supervisor import Supervisor
from cefr_batch.job.supervisor import run_job as run_job_here
from cefr_batch.job.sync import Mirror
from cefr_batch.records import layout
from cefr_batch.records.document import read_file
from cefr_batch.records.exports import ExportResult
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.metrics import Metrics
from cefr_batch.records.stages import StageRecord
from cefr_batch.runner import Session, State
from cefr_batch.runner.exports import stored_exports
from cefr_batch.store.local import LocalStore

RUN = "tiny-b1-peft-v1"


@pytest.fixture
def released(tmp_path: Path) -> LocalStore:
    """A run of 0.1.0 of which nothing is left to do but its export, whose merged model cannot be exported."""
    store = released_store(tmp_path)
    store.delete(layout.run_key(RUN, layout.MANIFEST))
    spec = store.get_json(layout.run_key(RUN, layout.SPEC))
    spec["spec"]["export"] = ["gguf", "ollama-q8_0"]
    store.put_json(layout.run_key(RUN, layout.SPEC), spec)
    return store


def check_complete_without_exports(store: LocalStore, reason: str) -> None:
    metrics = store.get_record(layout.run_key(RUN, layout.METRICS), Metrics)
    assert metrics.export is not None
    assert metrics.export.made == []
    assert list(metrics.export.failed) == ["gguf-f16", "gguf-q8_0"]
    assert all(reason in why for why in metrics.export.failed.values())
    (state,) = Session(store).status([RUN])
    assert state.state is State.SUCCEEDED
    assert "gguf-f16 was not exported: " in state.reason
    assert Session(store).verify(RUN).problems == {}
    assert stored_exports(store, RUN) == []


@pytest.mark.slow
def test_an_export_that_fails_is_a_warning(released: LocalStore) -> None:
    """A whole job, in processes of their own."""
    command = [sys.executable, "-m", "cefr_batch", "run-job", RUN, "--store", released.url]
    job = subprocess.run(command, capture_output=True, text=True)
    assert job.returncode == 0, job.stdout + job.stderr
    following = f". The run completes without it. Fix the cause, then run `cefr-batch export {RUN} --to gguf`"
    assert following in job.stdout + job.stderr
    check_complete_without_exports(released, "")


def test_an_export_whose_process_is_killed_is_one_too(
    released: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def killed(_: Supervisor, stages: list[str]) -> None:
        assert stages == ["export"]
        raise JobFailed("stage export was killed by the system")

    monkeypatch.setattr(Supervisor, "_run_child", killed)
    with caplog.at_level(logging.WARNING):
        run_job_here(released, RUN, tmp_path / "work")
    assert "the export failed: stage export was killed by the system. The run completes without it" in caplog.text
    check_complete_without_exports(released, "stage export was killed by the system")


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the real one; and llama.cpp is not installed."""
    monkeypatch.setattr(gguf, "run_converter", StandInConverter())
    for module in (gguf, make):
        monkeypatch.setattr(module, "converter_version", lambda: "a stand-in 1.0")
    monkeypatch.setattr(make, "can_verify", lambda: False)


@pytest.mark.usefixtures("converter")
def test_a_complete_run_has_the_cards_of_its_exports(
    released: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage in this process, on a merged model as this version writes it."""

    def exports(supervisor: Supervisor, stages: list[str]) -> None:
        work = WorkDir.of(tmp_path / "work", released.url, RUN)
        shutil.rmtree(work.path(layout.MERGED))
        merged_folder(work.path(layout.MERGED))
        run_stage(StageContext(work), *stages)

    monkeypatch.setattr(Supervisor, "_run_child", exports)
    run_job_here(released, RUN, tmp_path / "work")
    for kind in ("gguf-f16", "gguf-q8_0"):
        card = ModelCard(released.get(layout.run_key(RUN, layout.export_card(kind))).decode())
        assert "Not verified: llama.cpp is not installed on the machine that made this file" in card.text
        assert "## Figures" in card.text
    assert Session(released).verify(RUN).problems == {}


@pytest.mark.usefixtures("converter")
def test_what_it_makes_is_stored_with_the_stage(store: LocalStore, tmp_path: Path) -> None:
    spec = load_spec("B1", overrides=["backend=peft", "data.examples=20", "export=[ollama,gguf-q8_0]"])
    work = work_folder(tmp_path / RUN, spec)
    merged_folder(work.path(layout.MERGED))
    run_stage(StageContext(work), "export")
    result = read_file(StageRecord[ExportResult], work.path(layout.stage_name("export"))).result
    assert result == ExportResult(made=["f16", "q8_0"], failed={})
    Mirror(store, RUN, work, keep_checkpoints=2).push()
    record = store.get_record(layout.run_key(RUN, layout.stage_name("export")), BY_NAME["export"].record)
    names = [f"exports/gguf-{type_}/{name}" for type_ in ("f16", "q8_0") for name in ("Modelfile", "export.json")]
    assert {one.key for one in record.objects} == {
        *names, f"exports/gguf-f16/{RUN}-f16.gguf", f"exports/gguf-q8_0/{RUN}-q8_0.gguf",
    }  # fmt: skip
    assert stored_exports(store, RUN) == ["gguf-f16", "gguf-q8_0"]


def test_without_the_setting_there_is_no_such_stage() -> None:
    spec = load_spec("B1", overrides=["backend=peft"])
    assert "export" not in [stage.name for stage in stages_of(spec)]
