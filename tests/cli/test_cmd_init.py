"""``cefr-batch init``: what it writes loads and passes plan and submit --dry-run as it stands; it overwrites nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook
from support.runs import ROOT

from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import Level
from cefr_batch.data import load_dataset
from cefr_batch.data.pairs import read_pairs

Run = Callable[..., Any]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, on a machine that reaches no cluster."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_what_it_writes_passes_plan_and_a_dry_run_everywhere(cefr_batch: Run, here: Path, tiny_model: Path) -> None:
    result = cefr_batch("init", "--slurm", "--k8s", "--level", "B1")
    assert result.code == 0
    assert list(contents(here)) == ["data/b1.csv", "jobs/b1.yaml", "k8s/mysite.yaml", "slurm/mysite.yaml"]
    assert (
        "not filled in: slurm/mysite.yaml: partition, gres, gpu, cpus, memory, time, account, shared, python: there is no"
        in result.err
    )
    model = ("--set", f"model.name={tiny_model}", "--set", "training.max_length=2048", "--set", "backend=peft")
    plan = cefr_batch("plan", "--level", "B1", *model)
    assert (plan.code, plan.err) == (0, "")
    assert f"Data                        {here / 'data' / 'b1.csv'}" in plan.out
    for cluster in ("local", "slurm/mysite"):
        done = cefr_batch("submit", "--level", "B1", "--cluster", cluster, "--store", "s", "--dry-run", *model)
        assert done.code == (1 if cluster.startswith("slurm") else 0), done.err  # no Slurm here
        assert "B1: jobs/b1.yaml; data: data/b1.csv" in done.out
    assert "warning: submit would refuse this: there is no sbatch" in done.err
    assert "Nothing was started (--dry-run; submit would refuse it, for the reasons in the warnings)." in done.out
    # A pod would not reach a file of this machine, nor a store on it.
    starter = ("--set", "data.source=starter", "--set", "data.columns=null")
    rendered = cefr_batch(
        "render", "--level", "B1", "--cluster", "k8s/mysite", "--store", "s3://b/x", *model[-2:], *starter
    )
    assert rendered.code == 0, rendered.err
    assert "kind: Job" in rendered.out


def test_it_names_the_commands_that_come_next(cefr_batch: Run, here: Path) -> None:
    out = cefr_batch("init", "new", "--level", "A1,A2", "--slurm", "--site", "uni").out
    assert list(contents(here / "new")) == [
        "data/a1.csv",
        "data/a2.csv",
        "jobs/a1.yaml",
        "jobs/a2.yaml",
        "slurm/uni.yaml",
    ]
    assert "  cd new\n" in out
    assert "  cefr-batch submit --level A1,A2 --cluster slurm/uni --dry-run\n" in out
    assert "smoke" not in out  # a login node is no place for it


def test_without_a_cluster_it_names_the_commands_of_the_docs(cefr_batch: Run, here: Path) -> None:
    named = cefr_batch("init").out.split("Next:\n")[1].splitlines()
    page = (ROOT / "docs" / "get-started.md").read_text().splitlines()
    first = page.index(f"$ {named[0].strip()}")
    assert page[first : first + 2] == [f"$ {line.strip()}" for line in named]


def test_a_machine_without_slurm_is_told_of_host_and_not_taken_for_the_cluster(cefr_batch: Run, here: Path) -> None:
    result = cefr_batch("init", "--slurm")
    assert "there is no sinfo here; run this on a machine of the cluster" in result.err
    assert "or add --host me@login.cluster.edu" in result.err
    lines = contents(here)["slurm/mysite.yaml"].splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == ["extends: default"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--host", "me@login"), "--host: a login node is asked only for a site file of SLURM; add --slurm"),
        (("--k8s", "--host", "me@login"), "add --slurm"),
        (("--slurm", "--host", "-oProxyCommand=reboot"), "--host: must be what ssh takes"),
    ],
)
def test_a_host_is_for_slurm_alone(words: tuple[str, ...], said: str, cefr_batch: Run, here: Path) -> None:
    result = cefr_batch("init", *words)
    assert result.code == 2
    assert said in result.err
    assert contents(here) == {}


def test_a_site_file_can_be_all_that_is_written(cefr_batch: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CEFR_BATCH_STORE", raising=False)
    out = cefr_batch("init", "--k8s").out
    assert list(contents(here)) == ["k8s/mysite.yaml"]
    assert "  cefr-batch doctor --cluster k8s/mysite --store s3://BUCKET/PREFIX\n" in out
    assert "config show" not in out
    monkeypatch.setenv("CEFR_BATCH_STORE", "s3://mine/cefr")
    assert "  cefr-batch doctor --cluster k8s/mysite\n" in cefr_batch("init", "again", "--k8s").out


def test_files_that_are_there_are_all_named_and_nothing_is_written(cefr_batch: Run, here: Path) -> None:
    (here / "jobs").mkdir()
    (here / "jobs" / "b1.yaml").write_text("mine")
    (here / "slurm").mkdir()
    (here / "slurm" / "mysite.yaml").symlink_to(here / "gone")  # a broken link is somebody's too
    result = cefr_batch("init", "--slurm", "--k8s", "--level", "B1")
    assert (result.code, result.out) == (2, "")
    assert "already there: jobs/b1.yaml, slurm/mysite.yaml; init overwrites nothing" in result.err
    assert contents(here) == {"jobs/b1.yaml": "mine"}


def test_a_file_where_a_folder_is_needed(cefr_batch: Run, here: Path) -> None:
    (here / "jobs").write_text("not a folder")
    result = cefr_batch("init")
    assert (result.code, result.err) == (2, "error: jobs is a file where init needs a folder; move it away\n")
    assert contents(here) == {"jobs": "not a folder"}


def test_where_one_file_cannot_be_written_none_is_left(
    cefr_batch: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the second file."""
    opened = Path.open

    def full(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == "b1.yaml" and "x" in args:
            raise OSError(28, "No space left on device")
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    result = cefr_batch("init", "new")
    assert result.code == 1
    assert "cannot write new/jobs/b1.yaml: No space left on device; nothing was left behind" in result.err
    assert list(here.iterdir()) == []


def pairs_csv(path: Path, words: int, sentences: int) -> Path:
    rows = [f"word{w},Sentence {s} has word{w} in it." for w in range(words) for s in range(sentences)]
    path.write_text("\n".join(["word,sentence", *rows]))
    return path


@pytest.mark.parametrize(
    ("words", "sentences", "chosen"),
    [(60, 3, {}), (20, 3, {"words_per_example": 5}), (11, 3, {"words_per_example": 3, "examples": 50})],
    ids=["plenty", "fewer", "few"],
)
def test_settings_follow_from_how_many_pairs_there_are(
    words: int, sentences: int, chosen: dict[str, int], cefr_batch: Run, here: Path, tiny_model: Path
) -> None:
    pairs_csv(here / "mine.csv", words, sentences)
    result = cefr_batch("init", "--data", "mine.csv", "--level", "A2")
    assert (result.code, result.err) == (0, "")
    data = load_spec("A2").data
    assert data.source == str(here / "mine.csv")
    default = {"words_per_example": 10, "examples": 2000}
    assert {key: getattr(data, key) for key in default} == {**default, **chosen}
    assert f"{words * sentences} sentence pairs" in (here / "jobs" / "a2.yaml").read_text()
    # the last line of what comes next would be submitted, with a model that is on this machine
    line = result.out.splitlines()[-1].replace("--wait", "--dry-run")
    model = ("--set", f"model.name={tiny_model}", "--set", "training.max_length=2048", "--set", "backend=peft")
    assert cefr_batch(*line.split()[1:], *model).code == 0


def test_too_few_pairs_are_said_to_be_too_few(cefr_batch: Run, here: Path) -> None:
    pairs_csv(here / "mine.csv", 20, 1)
    result = cefr_batch("init", "--data", "mine.csv")
    assert result.code == 1
    assert result.err == (
        "error: mine.csv: its 20 sentence pairs, of 20 different words, are too few: not even 20 examples of 3 words each "
        "can be built from them once some words are held out for evaluation; add pairs with more words, or more sentences "
        "for the same words\n"
    )
    assert list(contents(here)) == ["mine.csv"]


def test_a_spreadsheet_with_columns_and_a_sheet_of_its_own_names(cefr_batch: Run, here: Path) -> None:
    book = Workbook()
    book.active.title = "Notes, 2026"
    for row in (
        ("Kelime", "Cümle"),
        *((f"word{w}", f"Sentence {s} has word{w}.") for w in range(60) for s in range(3)),
    ):
        book.active.append(row)
    book.save(here / "my words.xlsx")
    named = ("--columns", "word=Kelime,sentence=Cümle", "--sheet", "Notes, 2026")
    assert "has no sheet" in cefr_batch("init", "--data", "my words.xlsx", "--sheet", "x").err
    assert cefr_batch("init", "--data", "my words.xlsx", *named).code == 0
    data = load_dataset(load_spec("B1").data, Level.B1)
    assert len(data.train) + len(data.eval) == 2000


@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
def test_a_name_of_a_file_far_away_stays_as_it_was_typed(
    absolute: bool, cefr_batch: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative name is counted from jobs/, as that file says; an absolute one is written without its dots."""
    pairs_csv(here / "mine.csv", 60, 3)
    work = here / "a" / "b" / "c"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    typed = Path("..") / ".." / ".." / "mine.csv"
    assert cefr_batch("init", "--data", str(work / typed if absolute else typed)).code == 0
    source = next(line for line in (work / "jobs" / "b1.yaml").read_text().splitlines() if "source:" in line)
    assert source.replace('"', "") == f"  source: {here / 'mine.csv' if absolute else Path('..') / typed}"
    assert load_spec("B1").data.source == str(here / "mine.csv")


def test_ready_examples_are_two_files(cefr_batch: Run, here: Path) -> None:
    assert cefr_batch("data", "build", "starter", "--level", "B1", "--out", "ready", "--examples", "20").code == 0
    alone = cefr_batch("init", "--data", "ready/train.json")
    assert alone.code == 2
    assert (
        "give two such files, for training and for evaluation, or take this one apart with `cefr-batch data pairs ready/"
        in alone.err
    )
    assert cefr_batch("init", "--data", "ready/train.json", "--data", "ready/eval.json").code == 0
    data = load_spec("B1").data
    assert (data.train, data.eval) == (str(here / "ready" / "train.json"), str(here / "ready" / "eval.json"))


def test_data_that_cannot_be_used_is_named_and_nothing_is_written(cefr_batch: Run, here: Path) -> None:
    (here / "bad.csv").write_text("word,sentence\ncat,\n")
    result = cefr_batch("init", "--data", "bad.csv")
    assert (result.code, result.err) == (1, "error: bad.csv: line 2: the sentence is empty\n")
    pairs_csv(here / "tiny.csv", 2, 2)
    said = cefr_batch("init", "--data", "tiny.csv").err
    assert "tiny.csv: its 4 sentence pairs, of 2 different words, are too few" in said
    assert cefr_batch("init", "--data", "tiny.csv", "--level", "A1,A2").code == 2
    assert cefr_batch("init", "--slurm", "--site", "../x").code == 2
    assert set(contents(here)) == {"bad.csv", "tiny.csv"}


def test_the_sample_is_the_starter_corpus(cefr_batch: Run, here: Path) -> None:
    cefr_batch("init")
    assert read_pairs(str(here / "data" / "b1.csv"), Level.B1) == read_pairs("starter", Level.B1)


def test_a_variable_that_hides_the_new_files_is_named(
    cefr_batch: Run, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cefr_batch("init", "other", "--level", "A1")
    monkeypatch.setenv("CEFR_BATCH_SLURM", str(tmp_path))
    assert "CEFR_BATCH_SLURM is set, so slurm is not read" in cefr_batch("init", "--slurm").err


def test_config_names_each_file_and_those_that_it_stands_in_for(cefr_batch: Run, here: Path) -> None:
    cefr_batch("init", "--slurm", "--level", "B1")
    lines = [line.split() for line in cefr_batch("config", "show").out.splitlines()]
    (b1,) = (line for line in lines if line[:2] == ["jobs", "b1"])
    assert b1[2] == "jobs/b1.yaml"
    assert b1[3].endswith("/jobs/b1.yaml")
    assert ["sites", "slurm/mysite", "slurm/mysite.yaml"] in lines
    shipped = {tuple(line[:2]) for line in lines}
    assert {
        ("jobs", "base"),
        ("jobs", "c1"),
        ("profiles", "smoke"),
        ("sites", "slurm"),
        ("sites", "k8s/gke-l4"),
    } <= shipped


def test_config_says_which_file_gives_each_setting(cefr_batch: Run, here: Path) -> None:
    cefr_batch("init")
    (here / "mine.yaml").write_text("training: {epochs: 3}\n")
    arguments = ("--level", "B1", "--profile", "mine.yaml", "--set", "lora.rank=8", "--json")
    found = json.loads(cefr_batch("config", "show", *arguments).out)["levels"]["B1"]
    assert found["data.source"] == {"value": str(here / "data" / "b1.csv"), "from": "jobs/b1.yaml"}
    assert found["training.epochs"] == {"value": 3, "from": "mine.yaml"}
    assert found["lora.rank"] == {"value": 8, "from": "--set"}
    assert found["lora.alpha"]["from"].endswith("/jobs/base.yaml")
    assert cefr_batch("config", "show", "--level", "B1").code == 0


def test_config_of_a_mistake_and_of_nothing(cefr_batch: Run, here: Path) -> None:
    assert "unknown key" in cefr_batch("config", "show", "--level", "B1", "--set", "training.epoch=1").err
    assert cefr_batch("config", "show", "--set", "training.epochs=1").code == 2


def test_config_lists_sites_profiles_and_gpus(cefr_batch: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEFR_BATCH_SLURM", str(here))
    (here / "uni.yaml").write_text("extends: default\n")
    sites = json.loads(cefr_batch("config", "sites", "--json").out)
    assert [one["name"] for one in sites["sites"] if one["name"].startswith("slurm")] == ["slurm/uni"]
    assert sites["environment"]["CEFR_BATCH_SLURM"] == str(here)
    assert f"CEFR_BATCH_SLURM={here}" in cefr_batch("config", "sites").out
    assert "smoke" in cefr_batch("config", "profiles").out
    gpus = cefr_batch("config", "gpus").out
    assert "rtx4090    GeForce RTX 4090  25.4 GB" in gpus
    assert json.loads(cefr_batch("config", "gpus", "--json").out)["gpus"][0]["name"] == "t4"
