"""Job files, profiles and --set become a spec: the defaults are the seed's, later layers win, nothing crashes."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cefr_batch.errors import SpecError
from cefr_batch.levels import Level, RunSpec, alias_of
from cefr_batch.spec import jobs_folder, load_spec, load_specs, recorded_spec, sweep

JOBS = Path(__file__).parents[1] / "jobs"


def test_the_seeds_settings_are_the_defaults() -> None:
    spec = load_spec("B1").with_backend("unsloth")
    training, lora = spec.training, spec.lora
    assert (training.max_length, training.batch_size, training.gradient_accumulation_steps) == (512, 16, 4)
    assert (training.learning_rate, training.epochs, training.warmup_ratio) == (2e-4, 10, 0.1)
    assert (training.lr_scheduler, training.weight_decay, training.optimizer) == ("cosine", 0.01, "adamw_8bit")
    assert (training.eval_steps, training.logging_steps, training.seed) == (50, 10, 42)
    assert (lora.rank, lora.alpha, lora.dropout) == (128, 256, 0.05)
    assert [m.removesuffix("_proj") for m in lora.target_modules] == ["q", "k", "v", "o", "gate", "up", "down"]
    assert (spec.data.source, spec.data.examples, spec.data.eval_fraction) == ("starter", 2000, 0.1)
    assert spec.model.load_in_4bit
    assert spec.run_family == "llama1b-b1-unsloth"


def test_every_level_and_profile_that_ships_is_valid() -> None:
    specs = [load_spec(level.value, profile=profile) for level in Level for profile in (None, "smoke")]
    assert [spec.level for spec in specs] == [level for level in Level for _ in range(2)]
    assert len(list(JOBS.glob("*.yaml"))) == 1 + len(Level)
    assert [file.stem for file in (JOBS / "profiles").glob("*.yaml")] == ["smoke"]


def test_later_layers_win_and_a_source_replaces_the_other_kind(tmp_path: Path) -> None:
    for file in ("base.yaml", "b1.yaml"):
        (tmp_path / file).write_text((JOBS / file).read_text())
    (tmp_path / "mine.yaml").write_text("training: {epochs: 3, seed: 7}\ndata: {train: a.json, eval: b.json}\n")
    profile = str(tmp_path / "mine.yaml")
    spec = load_spec("b1", profile=profile, overrides=["training.epochs=2", "model=./llama"], jobs=tmp_path)
    assert (spec.training.epochs, spec.training.seed) == (2, 7)
    assert spec.data.source is None
    assert spec.data.train == str(tmp_path / "a.json"), "relative to the file that names it"
    assert spec.model.name == str(Path.cwd() / "llama"), "relative to the current folder"
    assert spec.alias == "llama", "base.yaml's alias names another model"
    back = load_spec("b1", profile=profile, overrides=["data=starter"], jobs=tmp_path)
    assert (back.data.source, back.data.train, back.data.eval) == ("starter", None, None)


def test_a_problem_is_told_with_the_place_that_gave_the_value(tmp_path: Path) -> None:
    for file in ("base.yaml", "b1.yaml"):
        (tmp_path / file).write_text((JOBS / file).read_text())
    (tmp_path / "b1.yaml").write_text("extends: base\nlevel: B1\nlora: {rank: big}\ndata: {eval: x.json}\n")
    with pytest.raises(SpecError) as caught:
        load_spec("B1", overrides=["training.seed=-1"], jobs=tmp_path)
    told = {str(problem) for problem in caught.value.problems}
    assert any(t.startswith(f"{tmp_path}/b1.yaml: lora.rank: must be a whole number") for t in told)
    assert any(t.startswith(f"{tmp_path}/b1.yaml: data: train missing") for t in told)
    assert any(t.startswith("--set: training.seed: must be") for t in told)
    assert len(told) == 3


def test_a_run_recorded_before_there_was_generation_can_be_resumed_without_it() -> None:
    record = {"spec": load_spec("B1").model_dump(mode="json")}
    del record["spec"]["generation"]
    assert recorded_spec(record, "spec.json").generation.examples == 0


def test_a_recorded_spec_comes_back_the_same_or_says_what_is_wrong() -> None:
    spec = load_spec("C1", profile="smoke")
    record = {"spec": spec.model_dump(mode="json")}
    assert recorded_spec(record, "spec.json") == spec
    record["spec"]["lora"]["rnak"] = record["spec"]["lora"].pop("rank")
    with pytest.raises(SpecError, match=re.escape("spec.json: lora.rank: missing")):
        recorded_spec(record, "spec.json")
    with pytest.raises(SpecError, match="was it edited"):
        recorded_spec([], "spec.json")


def test_gpus_share_the_examples_of_a_step_evenly() -> None:
    assert load_spec("B1", overrides=["resources.gpus=8"]).resources.gpus == 8
    with pytest.raises(SpecError, match=r"resources\.gpus: 3 cannot share the 64 examples of a step"):
        load_spec("B1", overrides=["resources.gpus=3"])


def test_jobs_are_found_in_the_current_folder_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "base.yaml").write_text((JOBS / "base.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    assert jobs_folder() == Path("jobs")
    monkeypatch.chdir("/")
    assert jobs_folder() == JOBS
    monkeypatch.setenv("CEFR_BATCH_JOBS", str(tmp_path / "nowhere"))
    with pytest.raises(SpecError, match="nowhere"):
        jobs_folder()


@given(text=st.text(max_size=200) | st.text("[]{}:,&*!? ab.=-0", max_size=30).map(lambda value: f"data={value}"))
@example("data={[1]: 2}")
@example("data=&a {train: *a}")
@example("training.seed=2026-01-01")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_override_crashes(text: str) -> None:
    with suppress(SpecError):
        assert isinstance(load_spec("B1", overrides=[text]), RunSpec)


_KEYS = st.sampled_from(["level", "extends", "model", "data", "lora", "training", "rank", "epochs", "name", "x", "a.b"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@given(tree=_VALUES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_job_file_crashes(tree: object, tmp_path: Path) -> None:
    import yaml

    (tmp_path / "base.yaml").write_text((JOBS / "base.yaml").read_text())
    (tmp_path / "a1.yaml").write_text(yaml.safe_dump(tree))
    with suppress(SpecError):
        load_spec("A1", jobs=tmp_path)


@given(name=st.text(min_size=1, max_size=80))
def test_an_alias_is_always_good_for_a_run_name(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", alias_of(name))


def test_a_range_is_a_run_for_each_value_and_several_ranges_every_combination() -> None:
    assert sweep(["training.seed=1..3", "lora.rank=8"]) == [(f"training.seed={n}", "lora.rank=8") for n in (1, 2, 3)]
    assert len(sweep(["training.seed=1..4", "lora.rank=8..12"])) == 20
    assert sweep([]) == [()]
    assert sweep(["model.name=a..b"]) == [("model.name=a..b",)]


@pytest.mark.parametrize("text", ["training.seed=5..1", "training.seed=0..1000"])
def test_an_empty_range_and_one_of_too_many_runs_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"must be a range of 1 to 1000 values, as in 1\.\.5"):
        sweep([text])
    with pytest.raises(SpecError, match="make 2500 runs of a level; at most 1000"):
        sweep(["training.seed=1..50", "lora.rank=1..50"])


def test_each_combination_of_a_sweep_is_the_spec_that_it_would_be_alone() -> None:
    combinations = sweep(["training.seed=7..9"])
    specs = load_specs("B1", profile="smoke", combinations=combinations)
    assert specs == [load_spec("B1", profile="smoke", overrides=one) for one in combinations]
    assert [spec.training.seed for spec in specs] == [7, 8, 9]
    with pytest.raises(SpecError) as caught:
        load_specs("B1", profile=None, combinations=sweep(["training.seed=1..3", "nope=1"]))
    assert len(caught.value.problems) == 1
