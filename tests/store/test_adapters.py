"""model.adapter: what a run may start from is settled before it is submitted, each mismatch with the value to set."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.report_stores import A1, metrics

from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import RunSpec
from cefr_batch.errors import SpecError, Unavailable
from cefr_batch.records import layout
from cefr_batch.records.manifest import Manifest
from cefr_batch.records.metrics import Metrics
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.stages import StoredObject
from cefr_batch.runner.submission import claim
from cefr_batch.store.adapters import adapter_of, check_adapter
from cefr_batch.store.local import LocalStore

SHA = "a" * 64
WEIGHTS = StoredObject(key=layout.ADAPTER_WEIGHTS, size=3, sha256=SHA)
MODEL = ["backend=peft", "model.name=org/model", "model.revision=null"]


def spec(*overrides: str, level: str = "B1") -> RunSpec:
    return load_spec(level, overrides=[*MODEL, *overrides])


def stored_run(store: LocalStore, *overrides: str, complete: bool = True, commit: str | None = None) -> str:
    (run,) = claim(store, [(spec(*overrides, level="A1"), "0" * 64)])
    if complete:
        figures = {**metrics(run, "A1", A1), "model_revision": commit}
        store.put_record(layout.run_key(run, layout.METRICS), Metrics.model_validate(figures))
        manifest = Manifest(run=run, complete_at="2026-01-01T00:00:00Z", objects=[WEIGHTS])
        store.put_record(layout.run_key(run, layout.MANIFEST), manifest)
    return run


def refusal(store: LocalStore, wanted: RunSpec, commit: str | None = None) -> str:
    with pytest.raises(SpecError) as caught:
        check_adapter(store, wanted, commit)
    assert caught.value.exit_code == 2
    (problem,) = caught.value.problems
    assert problem.where == "model.adapter"
    return problem.what


def test_a_fitting_adapter_passes_and_its_claim_pins_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    run = stored_run(store, commit="c" * 40)
    # Dropout, data and all of training may differ; the order of modules says nothing.
    backwards = "[" + ",".join(reversed(spec().lora.target_modules)) + "]"
    wanted = spec(f"model.adapter={run}", "lora.dropout=0.3", "training.epochs=1", f"lora.target_modules={backwards}")
    check_adapter(store, wanted, "c" * 40)
    (name,) = claim(store, [(wanted, "0" * 64)])
    pinned = store.get_record(layout.run_key(name, layout.SPEC), SpecRecord).adapter
    assert pinned == adapter_of(store, run)
    assert pinned is not None
    assert (pinned.run, pinned.sha256, pinned.model_revision) == (run, SHA, "c" * 40)
    check_adapter(store, spec(), None)  # nothing is asked for


def test_all_mismatches_are_one_error_with_the_values_to_set(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    run = stored_run(store, "lora.rank=8", "lora.alpha=16", "lora.target_modules=[q_proj, v_proj]", "model.revision=v1")
    wanted = spec(f"model.adapter={run}", "model.name=org/other", "lora.rank=4", "lora.alpha=8")
    assert refusal(store, wanted) == (
        f"{run} cannot be continued with other settings; set model.name=org/model (now org/other) model.revision=v1 (now "
        "null) lora.rank=8 (now 4) lora.alpha=16 (now 8) lora.target_modules=[q_proj,v_proj] (now "
        "[down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj])"
    )


def test_another_commit_of_the_same_branch_is_another_model(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    run = stored_run(store, commit="c" * 40)
    wanted = spec(f"model.adapter={run}")
    assert f"set model.revision={'c' * 40} (now {'d' * 40})" in refusal(store, wanted, "d" * 40)


def test_a_run_that_is_not_there_not_complete_or_has_no_adapter_is_told_with_the_next_step(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert "there is no run nobody-a1-peft-v1 in" in refusal(store, spec("model.adapter=nobody-a1-peft-v1"))
    run = stored_run(store, complete=False)
    told = refusal(store, spec(f"model.adapter={run}"))
    assert told == (
        f"{run} is not complete, and training starts from its adapter; submit again when `cefr-batch status {run}` says "
        "SUCCEEDED"
    )
    run = stored_run(store)
    key = layout.run_key(run, layout.MANIFEST)
    store.put_record(key, store.get_record(key, Manifest).without(layout.ADAPTER))
    assert f"{run} has no adapter/adapter_model.safetensors" in refusal(store, spec(f"model.adapter={run}"))


def test_a_store_that_is_away_is_no_fault_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)

    def away(*_: object) -> None:
        raise Unavailable("the store is away")

    monkeypatch.setattr(LocalStore, "get_record", away)
    with pytest.raises(Unavailable):
        check_adapter(store, spec("model.adapter=tiny-a1-peft-v1"), None)
