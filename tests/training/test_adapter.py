"""A run that starts from another run's adapter: its weights, its checksum, its provenance; the baseline is untrained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.job_runs import SETTINGS, claimed_run, start_training, stored, work_folder

from cefr_batch.config.load import load_spec
from cefr_batch.errors import Damaged, JobFailed, ModelError, NotReady
from cefr_batch.job.stages.train import _require_same_model
from cefr_batch.job.supervisor import run_job
from cefr_batch.records import layout
from cefr_batch.records.document import read_file, write_file
from cefr_batch.records.spec import SpecRecord, StartingAdapter
from cefr_batch.runner import Session
from cefr_batch.store.adapters import adapter_of, fetch_adapter
from cefr_batch.store.local import LocalStore

FROZEN = ["training.max_steps=1", "training.learning_rate=1e-12"]  # what comes out is what training started from


@pytest.fixture(scope="module")
def first(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalStore, str]:
    """A complete run, trained at a rate that changes its weights much."""
    folder = tmp_path_factory.mktemp("chain")
    store = LocalStore(folder / "store")
    run = claimed_run(store, tiny_model, "training.learning_rate=1e-2")
    run_job(store, run, folder / "work")
    return store, run


def weights(file: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(file)
    return found


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(bool((one[k] - other[k]).abs().max() < 1e-9) for k in one)


@pytest.mark.slow
def test_training_starts_from_the_weights_and_the_result_says_whose(
    first: tuple[LocalStore, str], tiny_model: Path, tmp_path: Path
) -> None:
    store, before = first
    run = claimed_run(store, tiny_model, *FROZEN, f"model.adapter={before}")
    run_job(store, run, tmp_path / "work")
    folder = tmp_path / "pulled"
    Session(store).pull(run, folder, ["adapter"])
    Session(store).pull(before, folder, ["adapter"])
    assert equal(*(weights(folder / one / layout.ADAPTER_WEIGHTS) for one in (run, before)))

    (listed,) = [o for o in stored(store, before, layout.MANIFEST)["objects"] if o["key"] == layout.ADAPTER_WEIGHTS]
    found, parent = (stored(store, one, layout.METRICS) for one in (run, before))
    assert {key: found["adapter"][key] for key in ("run", "sha256")} == {"run": before, "sha256": listed["sha256"]}
    assert "adapter" not in parent
    assert found["baseline"] == parent["baseline"], "the baseline is the untrained model in both"
    assert found["tuned"]["full"]["loss"] == pytest.approx(parent["tuned"]["full"]["loss"], abs=1e-6)
    assert found["tuned"] != found["baseline"]


@pytest.mark.slow
def test_every_process_of_a_group_starts_from_it(
    first: tuple[LocalStore, str], tiny_model: Path, tmp_path: Path
) -> None:
    store, before = first
    overrides = [*SETTINGS, *FROZEN, "resources.gpus=2", f"model.adapter={before}"]
    work = work_folder(tmp_path / "two", load_spec("A2", overrides=[f"model.name={tiny_model}", *overrides]))
    adapter = adapter_of(store, before)
    file = work.path(layout.SPEC)
    write_file(file, read_file(SpecRecord, file).model_copy(update={"adapter": adapter}))
    fetch_adapter(store, adapter, work)
    process = start_training(work)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    start = weights(work.starting_adapter / "adapter_model.safetensors")
    assert equal(weights(work.path(layout.ADAPTER_WEIGHTS)), start)


@pytest.mark.slow
def test_weights_that_changed_since_submit_are_refused(
    first: tuple[LocalStore, str], tiny_model: Path, tmp_path: Path
) -> None:
    store, before = first
    run = claimed_run(store, tiny_model, *FROZEN, f"model.adapter={before}")
    key = layout.run_key(before, layout.ADAPTER_WEIGHTS)
    data = store.get(key)
    store.put(key, data[:-1] + bytes([data[-1] ^ 1]))
    try:
        with pytest.raises(Damaged, match="adapter_model"):
            run_job(store, run, tmp_path / "work")
    finally:
        store.put(key, data)
    assert stored(store, run, layout.STATUS)["state"] == "FAILED"


@pytest.mark.slow
def test_submit_refuses_a_chain_whose_first_run_is_not_complete(
    first: tuple[LocalStore, str], tiny_model: Path
) -> None:
    store, _ = first
    waiting = claimed_run(store, tiny_model)
    overrides = [f"model.name={tiny_model}", *SETTINGS, f"model.adapter={waiting}"]
    with pytest.raises(NotReady, match=f"model.adapter: {waiting} is not complete") as caught:
        Session(store).prepare(["B1"], overrides=overrides)
    assert caught.value.exit_code == 2


def test_a_model_that_changed_on_the_hub_since_submit_is_refused() -> None:
    adapter = StartingAdapter(run="tiny-a1-peft-v1", size=1, sha256="0" * 64, model_revision="c" * 40)
    _require_same_model(adapter, "c" * 40)
    _require_same_model(adapter, None)
    _require_same_model(None, "d" * 40)
    with pytest.raises(JobFailed, match=f"submit again with model.revision={'c' * 40}"):
        _require_same_model(adapter, "d" * 40)


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "modules"), [(2, ["q_proj"]), (4, ["q_proj", "v_proj"]), (4, ["v_proj"])])
def test_weights_of_another_shape_or_for_other_modules_are_refused(
    tiny_model: Path, tmp_path: Path, rank: int, modules: list[str]
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from cefr_batch.training.trainer import load_weights

    def lora(r: int, targets: list[str]) -> Any:
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        return get_peft_model(model, LoraConfig(r=r, target_modules=targets, task_type="CAUSAL_LM"))

    lora(rank, modules).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="does not fit the model"):
        load_weights(lora(4, ["q_proj"]), tmp_path)
