"""Job files, profiles and --set become a spec: the first script's defaults, later layers win, nothing crashes."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cefr_batch.config.layers import Layers
from cefr_batch.config.load import load_spec, load_specs, recorded_spec, spec_files
from cefr_batch.config.schema import Level, NotifySpec, RunSpec, alias_of
from cefr_batch.config.sweep import sweep
from cefr_batch.data.dataset import layout_of
from cefr_batch.errors import SpecError

JOBS = Path(__file__).parents[2] / "jobs"


def test_the_settings_of_the_first_script_are_the_defaults() -> None:
    spec = load_spec("B1").with_backend("unsloth")
    training, lora = spec.training, spec.lora
    assert (training.max_length, training.batch_size, training.gradient_accumulation_steps) == (512, 16, 4)
    assert (training.learning_rate, training.epochs, training.warmup_ratio) == (2e-4, 10, 0.1)
    assert (training.lr_scheduler, training.weight_decay, training.optimizer) == ("cosine", 0.01, "adamw_8bit")
    assert (training.eval_steps, training.logging_steps, training.seed) == (50, 10, 42)
    assert (lora.rank, lora.alpha, lora.dropout) == (128, 256, 0.05)
    assert [m.removesuffix("_proj") for m in lora.target_modules] == ["q", "k", "v", "o", "gate", "up", "down"]
    assert (spec.data.source, spec.data.examples, spec.data.eval_fraction) == ("starter", 2000, 0.1)
    assert not spec.model.load_in_4bit
    assert spec.run_family == "llama1b-b1-unsloth"


def test_every_level_and_profile_that_ships_is_valid() -> None:
    specs = [load_spec(level.value, profile=profile) for level in Level for profile in (None, "smoke", "first-report")]
    assert [spec.level for spec in specs] == [level for level in Level for _ in range(3)]
    assert len(list(JOBS.glob("*.yaml"))) == 1 + len(Level)
    assert sorted(file.stem for file in (JOBS / "profiles").glob("*.yaml")) == ["first-report", "smoke"]


def test_later_layers_win_and_a_source_replaces_the_other_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEFR_BATCH_JOBS", str(tmp_path))
    for file in ("base.yaml", "b1.yaml"):
        (tmp_path / file).write_text((JOBS / file).read_text())
    (tmp_path / "mine.yaml").write_text("training: {epochs: 3, seed: 7}\ndata: {train: a.json, eval: b.json}\n")
    profile = str(tmp_path / "mine.yaml")
    spec = load_spec("b1", profile=profile, overrides=["training.epochs=2", "model=./llama"])
    assert (spec.training.epochs, spec.training.seed) == (2, 7)
    assert spec.data.source is None
    assert spec.data.train == str(tmp_path / "a.json"), "relative to the file that names it"
    assert spec.model.name == str(Path.cwd() / "llama"), "relative to the current folder"
    assert spec.alias == "llama", "base.yaml's alias names another model"
    back = load_spec("b1", profile=profile, overrides=["data=starter"])
    assert (back.data.source, back.data.train, back.data.eval) == ("starter", None, None)


def test_a_problem_is_told_with_the_place_that_gave_the_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEFR_BATCH_JOBS", str(tmp_path))
    for file in ("base.yaml", "b1.yaml"):
        (tmp_path / file).write_text((JOBS / file).read_text())
    (tmp_path / "b1.yaml").write_text("extends: base\nlevel: B1\nlora: {rank: big}\ndata: {eval: x.json}\n")
    with pytest.raises(SpecError) as caught:
        load_spec("B1", overrides=["training.seed=-1"])
    told = {str(problem) for problem in caught.value.problems}
    assert any(t.startswith(f"{tmp_path}/b1.yaml: lora.rank: must be a whole number") for t in told)
    assert any(t.startswith(f"{tmp_path}/b1.yaml: data: train missing") for t in told)
    assert any(t.startswith("--set: training.seed: must be") for t in told)
    assert len(told) == 3


def test_settings_that_contradict_each_other_are_told_at_once_beside_one_that_is_malformed(tmp_path: Path) -> None:
    profile = tmp_path / "contradictions.yaml"
    profile.write_text(
        "data: {source: starter, train: x.json, sheet: Words, columns: {word: Kelime}}\n"
        "lora: {rank: big, target_modules: [all-linear, lm_head]}\nresources: {gpus: 3}\n"
    )
    with pytest.raises(SpecError) as caught:
        load_spec("B1", profile=str(profile))
    assert [str(problem).removeprefix(f"{profile}: ").split(";")[0] for problem in caught.value.problems] == [
        "lora.rank: must be a whole number (got 'big')",
        "data.columns: describes a file of sentence pairs, so it needs data.source",
        "data.sheet: describes a file of sentence pairs, so it needs data.source",
        "data: give either source (sentence pairs) or train and eval (list format), not both",
        "lora.target_modules: all-linear means all modules already",
        "lora.target_modules: lm_head cannot be trained: in Llama 3.2 and SmolLM2 the input and output embeddings are the "
        "same weights, so a merge would change both",
        "resources.gpus: 3 cannot share the 64 examples of a step (training.batch_size x "
        "training.gradient_accumulation_steps) evenly",
    ]


def test_a_run_recorded_before_there_was_generation_can_be_resumed_without_it() -> None:
    recorded = load_spec("B1").model_dump(mode="json")
    del recorded["generation"]
    assert recorded_spec(recorded, "spec.json").generation.examples == 0


def test_a_recorded_spec_comes_back_the_same_or_says_what_is_wrong() -> None:
    spec = load_spec("C1", profile="smoke")
    recorded = spec.model_dump(mode="json")
    assert recorded_spec(recorded, "spec.json") == spec
    recorded["resources"]["gpus"] = 3
    with pytest.raises(SpecError, match=re.escape("spec.json: resources.gpus: 3 cannot share the")):
        recorded_spec(recorded, "spec.json")
    recorded["lora"]["rnak"] = recorded["lora"].pop("rank")
    with pytest.raises(SpecError, match=re.escape("spec.json: lora.rank: missing")):
        recorded_spec(recorded, "spec.json")


def test_gpus_share_the_examples_of_a_step_evenly() -> None:
    assert load_spec("B1", overrides=["resources.gpus=8"]).resources.gpus == 8
    with pytest.raises(SpecError, match=r"resources\.gpus: 3 cannot share the 64 examples of a step"):
        load_spec("B1", overrides=["resources.gpus=3"])


def test_files_of_ones_own_stand_in_for_the_shipped_ones_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One folder ``jobs`` with a level alone, a profile alone or a base alone: each counts, the rest is the shipped one."""
    monkeypatch.chdir(tmp_path)
    assert spec_files("B1", "smoke") == [JOBS / "b1.yaml", JOBS / "profiles" / "smoke.yaml"]
    mine = Path("jobs")
    (mine / "profiles").mkdir(parents=True)
    (mine / "b1.yaml").write_text("extends: base\nlevel: B1\ndata: {source: ../mine.csv}\n")
    (mine / "profiles" / "short.yaml").write_text("training: {epochs: 0.5}\n")
    assert spec_files("B1", "short") == [mine / "b1.yaml", mine / "profiles" / "short.yaml"]
    assert spec_files("A1", "smoke") == [JOBS / "a1.yaml", JOBS / "profiles" / "smoke.yaml"]
    spec = load_spec("B1", profile="short")
    assert (spec.data.source, spec.training.epochs) == (str(tmp_path / "mine.csv"), 0.5)
    (mine / "base.yaml").write_text((JOBS / "base.yaml").read_text().replace("rank: 128", "rank: 7"))
    assert load_spec("B1").lora.rank == load_spec("A1").lora.rank == 7
    with pytest.raises(SpecError, match="'shrot' is not a profile; valid: first-report, short, smoke, or a path"):
        load_spec("B1", profile="shrot")


def test_a_folder_named_in_the_environment_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEFR_BATCH_JOBS", str(tmp_path / "nowhere"))
    with pytest.raises(SpecError, match="nowhere"):
        load_spec("B1")
    monkeypatch.setenv("CEFR_BATCH_JOBS", str(tmp_path))
    (tmp_path / "base.yaml").write_text((JOBS / "base.yaml").read_text())
    with pytest.raises(
        SpecError, match=r"--level: there is no b1\.yaml in /.*`cefr-batch init --level B1`.*unset CEFR_BATCH_JOBS"
    ):
        load_spec("B1")


UNUSABLE_VALUES = [
    ("training.seed=2026-13-45", "--set training.seed: not valid YAML: '2026-13-45' is not a valid timestamp"),
    (
        "data.source=a: b: c",
        "mapping values are not allowed here; if the value is text, put it in quotes: --set 'KEY=\"VALUE\"'",
    ),
    ("training={seed: 2026-02-30}", "--set training: not valid YAML: seed: '2026-02-30' is not a valid timestamp"),
    ("training.seed=" + "1" * 5000, "… is not a valid int"),
    ("training.seed=!!int x", "'x' is not a valid int"),
    ("training.seed=!!bool x", "'x' is not a valid bool"),
    ("training.seed=!!timestamp x", "'x' is not a valid timestamp"),
    ("data=!!python/object:os.x 1", "could not determine a constructor for the tag"),
    ("data=" + "[" * 5000, "it is nested too deeply"),
    ("data=" + "{a: " * 5000, "it is nested too deeply"),
    ("a." * 5000 + "a=1", "is not a setting; write it as KEY=VALUE, for example training.epochs=2"),
    (
        "training.max_steps=999999999999",
        "training.max_steps: must be less than or equal to 10000000 (got 999999999999)",
    ),
    ("data.examples=999999999999", "data.examples: must be less than or equal to 1000000 (got 999999999999)"),
    ('data.source="a\\0b"', "data.source: must be a name without null bytes"),
    ('data.train="~a\\0b"', "data.train: must be a name without null bytes"),
]


@pytest.mark.parametrize(("text", "message"), UNUSABLE_VALUES, ids=[text[:30] for text, _ in UNUSABLE_VALUES])
def test_a_value_that_nothing_can_be_made_of_is_an_error_with_its_key(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec("B1", overrides=[text])
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_unusable_value_in_a_file_is_an_error_with_file_line_and_key(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("training:\n  epochs: 1\n  seed: 2026-13-45\n")
    with pytest.raises(SpecError) as caught:
        load_spec("B1", profile=str(file))
    assert str(caught.value) == f"{file}: line 3: not valid YAML: seed: '2026-13-45' is not a valid timestamp"


def test_what_a_file_that_cannot_be_read_would_give_is_not_said_to_be_missing(tmp_path: Path) -> None:
    """Its one problem would be lost among them. A wrong value is told with it."""
    file = tmp_path / "mine.yaml"
    file.write_text("extends: bases\ntraining: {seed: x}\n")
    layers = Layers(RunSpec)
    layers.add_file(file)
    with pytest.raises(SpecError) as caught:
        layers.resolve()
    assert [str(problem) for problem in caught.value.problems] == [
        f"{file}: extends: {tmp_path / 'bases.yaml'} does not exist; correct the name",
        f"{file}: training.seed: must be a whole number (got 'x')",
    ]


_TAGS = st.sampled_from(
    ["!!int", "!!float", "!!bool", "!!null", "!!timestamp", "!!binary", "!!set", "!!omap", "!x", "!!map"]
)
_SCALARS = st.text("0123456789-:.TZ+eExob_~<= \x00", max_size=24) | st.text(max_size=12)


@pytest.mark.slow
@settings(deadline=None)
@given(
    tag=_TAGS | st.just(""),
    scalar=_SCALARS,
    quoted=st.booleans(),
    inside=st.sampled_from(["{}", "[{}]", "{{seed: {}}}"]),
)
def test_no_scalar_with_any_tag_crashes(tag: str, scalar: str, quoted: bool, inside: str) -> None:
    value = f"{tag} {json.dumps(scalar) if quoted else scalar}"
    with suppress(SpecError):
        load_spec("B1", overrides=[f"training.seed={inside.format(value)}"])


@pytest.mark.slow
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
def test_no_job_file_crashes(tree: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    monkeypatch.setenv("CEFR_BATCH_JOBS", str(tmp_path))
    (tmp_path / "base.yaml").write_text((JOBS / "base.yaml").read_text())
    (tmp_path / "a1.yaml").write_text(yaml.safe_dump(tree))
    with suppress(SpecError):
        load_spec("A1")


@given(name=st.text(min_size=1, max_size=80))
def test_an_alias_is_always_good_for_a_run_name(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", alias_of(name))


def test_each_combination_of_a_sweep_is_the_spec_that_it_would_be_alone() -> None:
    combinations = sweep(["training.seed=7..9"])
    specs = load_specs("B1", profile="smoke", combinations=combinations)
    assert specs == [load_spec("B1", profile="smoke", overrides=one) for one in combinations]
    assert [spec.training.seed for spec in specs] == [7, 8, 9]
    with pytest.raises(SpecError) as caught:
        load_specs("B1", profile=None, combinations=sweep(["training.seed=1..3", "nope=1"]))
    assert len(caught.value.problems) == 1


def test_the_columns_and_the_sheet_of_a_source_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What --columns and --sheet say on the command line; another source drops them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    data = "data: {source: w.xlsx, sheet: Words, columns: {word: Kelime, sentence: Cümle}}"
    (tmp_path / "jobs" / "b1.yaml").write_text(f"extends: base\nlevel: B1\n{data}\n")
    layout = layout_of(load_spec("B1").data)
    assert (layout.columns, layout.sheet) == ({"word": "Kelime", "sentence": "Cümle"}, "Words")
    assert layout_of(load_spec("B1", overrides=["data.columns.word=Wort"]).data).columns["word"] == "Wort"
    other = load_spec("B1", overrides=["data.source=starter"]).data
    assert (other.columns, other.sheet) == (None, None)
    with pytest.raises(SpecError, match=r"data\.sheet: describes a file of sentence pairs"):
        load_spec("B1", overrides=["data.source=starter", "data.sheet=x"])
    with pytest.raises(SpecError, match=r"data\.columns\.words: unknown key"):
        load_spec("B1", overrides=["data.columns.words=x"])


def test_notify_names_a_variable_and_an_address_in_a_file_is_refused_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_spec("B1").notify is None
    named = load_spec("B1", overrides=["notify=CEFR_BATCH_NOTIFY_TEAM"]).notify
    assert named == NotifySpec(variable="CEFR_BATCH_NOTIFY_TEAM")
    told = load_spec("B1", overrides=["notify={events: [failed], preemptions: 5}"]).notify
    assert told == NotifySpec(events=["failed"], preemptions=5)
    secret = "mailtos://me:s3cr3t@example.org"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    for value in (
        secret,
        f"[{secret}]",
        f"{{variable: '{secret}'}}",
        f"{{variable: [{secret}]}}",
        f"{{urls: {secret}}}",
    ):
        (tmp_path / "jobs" / "b1.yaml").write_text(f"extends: base\nlevel: B1\ndata: starter\nnotify: {value}\n")
        with pytest.raises(SpecError) as caught:
            load_spec("B1")
        assert "s3cr3t" not in str(caught.value)
        assert "jobs/b1.yaml: notify" in str(caught.value)
    with pytest.raises(SpecError, match="export CEFR_BATCH_NOTIFY="):
        load_spec("A1", overrides=["notify=HOME"])
