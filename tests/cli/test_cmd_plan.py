"""``cefr-batch plan``: a table, one JSON document, and exit 1 where a run would be refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.published import published

from cefr_batch.cli.cmd_plan import _texts
from cefr_batch.cli.main import main
from cefr_batch.planning.plan import PlannedTexts
from cefr_batch.schedulers.local.scheduler import LocalScheduler


def test_the_seeds_files_give_the_seeds_run(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, evaluation = (published(f"training_data_b1_list_format_{side}.json") for side in ("train", "eval"))
    data = ["--set", f"data.train={train}", "--set", f"data.eval={evaluation}", "--set", "training.max_length=2048"]
    assert main(["plan", "--level", "b1", "--set", f"model.name={tiny_model}", *data]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for line in (
        "Training examples           1,800",
        "Evaluation examples         200",
        "Sentences seen in training  99.0 % of the evaluation set's",
        "Batch                       16 x 4 = 64 examples",
        "Steps                       290 (29 an epoch)",
        "Warm-up                     29 steps",
        "Evaluations                 step 50, epoch 1.74",
        "                            step 100, epoch 3.46",
        "                            step 150, epoch 5.18",
        "                            step 200, epoch 6.92",
        "                            step 250, epoch 8.64",
        "Checkpoints                 step 50",
        "                            step 290",
    ):
        assert line in out.splitlines()
    assert "Words per example" not in out  # the files say it


@pytest.mark.slow
def test_built_examples_have_words_and_the_starter_corpus_is_nobodys_own(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A profile overrides the words that a level's file says; ready files beside have an empty cell."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "b1.yaml").write_text("extends: base\nlevel: B1\ndata: {words_per_example: 5}\n")
    example = json.dumps([{"instruction": "Sentences:\n1. cat", "output": "1. A cat."}])
    for side in ("train", "eval"):
        (tmp_path / f"{side}.json").write_text(example)
    ready = "data: {train: ../train.json, eval: ../eval.json}"
    (tmp_path / "jobs" / "a1.yaml").write_text(f"extends: base\nlevel: A1\n{ready}\n")
    monkeypatch.chdir(tmp_path)
    settings = ["--set", f"model.name={tiny_model}", "--set", "training.max_length=2048"]
    for profile, words in (([], "5"), (["--profile", "smoke"], "3")):
        assert main(["plan", "--level", "B1", *profile, *settings]) == 0
        table = {line[:28].strip(): line[28:] for line in capsys.readouterr().out.splitlines()}
        assert table["Words per example"] == words
        assert table["Data"] == "starter (the starter corpus, no data of your own)"
    assert main(["plan", "--level", "A1,B1", *settings]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line.split() for line in lines if line.startswith("Words")) == ["Words", "per", "example", "5"]
    assert main(["plan", "--level", "B1", "--json", *settings]) == 0
    (plan,) = json.loads(capsys.readouterr().out)["plans"]
    assert (plan["spec"]["data"]["source"], plan["spec"]["data"]["words_per_example"]) == ("starter", 5)


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_a_table_with_other_columns_is_told_the_settings_that_name_them(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = tmp_path / "p.csv"
    path.write_text("Kelime;Cümle\nkedi;Kedi uyuyor.\n")
    arguments = ["--level", "A1", "--set", f"model.name={tiny_model}", "--set", f"data.source={path}"]
    store = ["--store", str(tmp_path / "store"), "--dry-run"] if command == "submit" else []
    assert main([command, *arguments, *store]) == 1
    err = capsys.readouterr().err
    assert "--set data.columns.word=Kelime --set data.columns.sentence=Cümle, or in the level's file" in err
    assert "columns: {word: Kelime, sentence: Cümle}" in err
    assert "--columns" not in err


def test_levels_stand_side_by_side(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = ["--level", "A1,c1"]
    settings = ["--profile", "smoke", "--set", f"model.name={tiny_model}", "--set", "training.max_length=2048"]
    settings += ["--set", "generation.examples=2", "--set", "generation.baselines=[zero_shot,few_shot]"]
    assert main(["plan", *levels, *settings, "--set", "evaluation.max_examples=5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["Level", "A1", "C1"]
    table = {line[:28].strip(): line[28:].split("  ") for line in lines}
    assert table["Evaluation examples"][0] == "16, 5 used (evaluation.max_examples)"
    assert table["Prompt"][0] == "alpaca"
    assert table["Generated texts"][0] == "8, at most 640 tokens:"
    row = next(number for number, line in enumerate(lines) if line.startswith("Generated texts"))
    assert [line.split("  ")[-1].strip() for line in lines[row + 1 : row + 4]] == [
        "2 answers x 2 models x 2 (greedy, sampled)",
        "untrained model: asked as in training",
        "no chat template for zero_shot, few_shot",
    ]
    row = next(number for number, line in enumerate(lines) if line.startswith("Epochs"))
    assert [line.split("  ")[-1].strip() for line in lines[row : row + 3]] == [
        "0.3333",
        "stops after 48 of 144 examples",
        "(training.max_steps)",
    ]
    assert (
        len(lines) == 34
    )  # settings, data, LoRA, evaluations and checkpoints have two lines, epochs three, texts four


def test_the_untrained_model_writes_in_each_way_that_it_is_asked() -> None:
    planned = PlannedTexts(6, ("zero_shot", "few_shot"), (), 400)
    assert _texts(planned, "(fewer)").splitlines() == [
        "48, at most 19,200 tokens:",
        "6 answers x 4 (tuned; untrained in 3 ways) x 2 (greedy, sampled)",
        "(fewer)",
        "untrained model: asked as in training, zero_shot, few_shot",
    ]


def test_fewer_answers_than_asked_for_name_what_to_raise_and_that_is_enough(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def planned(*settings: str) -> str:
        given = (f"model.name={tiny_model}", "generation.examples=60", *settings)
        assert main(["plan", "--level", "B1", "--profile", "smoke", *(w for one in given for w in ("--set", one))]) == 0
        return capsys.readouterr().out

    assert "(not 60 answers: raise evaluation.max_examples to 60 and data.examples to 600)" in planned()
    assert "(not 60 answers: raise data.examples to 600)" in planned("evaluation.max_examples=60")
    assert "(not 60 answers: raise evaluation.max_examples to 60)" in planned("data.examples=600")
    enough = planned("data.examples=600", "evaluation.max_examples=60")
    assert "60 answers x 2 models" in enough
    assert "(not" not in enough


def test_json_is_one_document_and_nothing_else(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", f"model.name={tiny_model}", "--set", "training.max_length=300", "--set", "backend=peft"]
    assert main(["plan", "--level", "A1", "--json", *settings]) == 1
    out, err = capsys.readouterr()
    (plan,) = json.loads(out)["plans"]
    assert (plan["level"], plan["steps"], plan["run_family"]) == ("A1", 290, "tiny-llama-a1-peft")
    assert plan["evaluations"][0]["step"] == 50
    assert plan["leakage"]["sentences_percent"] == 0
    (problem,) = plan["problems"]
    assert err == f"error: level A1, {problem}\n"
    assert f"raise training.max_length to {plan['longest_tokens']}" in problem


def test_a_long_list_of_evaluations_shows_its_first_and_its_last(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        "training.max_length=2048",
        "training.eval_steps=1",
        f"model.name={tiny_model}",
    ]
    assert main(["plan", "--level", "A1", *(word for one in settings for word in ("--set", one))]) == 0
    out = capsys.readouterr().out
    assert f"{' ' * 28}(278 more)\n{' ' * 28}step 290, epoch 10.00\n" in out
    assert out.endswith(f"{' ' * 28}(278 more)\n{' ' * 28}step 290\n")


def test_problems_of_all_levels_their_data_and_their_models_come_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("word,sentence\ncat,\n")
    arguments = ["--level", "A1", "--level", "A2", "--set", "model.name=/none"]
    assert main(["plan", *arguments, "--set", f"data.source={bad}"]) == 1
    no_model = "model /none is not a folder on this machine; check model.name"
    both = f"error: 2 problems, nothing was started:\n  - {no_model}\n  - {bad}: line 2: the sentence is empty\n"
    assert capsys.readouterr() == ("", both)
    assert main(["plan", *arguments, "--set", "training.epochs=0", "--set", "lora.rang=1"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: 2 problems, nothing was started:\n")
    assert "training.epochs" in err
    assert "lora.rang" in err
    assert main(["plan", *arguments]) == 1
    assert capsys.readouterr().err == f"error: {no_model}\n"
    assert main(["plan"]) == 2


@pytest.mark.slow
def test_a_gpu_adds_memory_time_and_cost(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", f"model.name={tiny_model}", "--set", "training.max_length=2048"]
    arguments = ["plan", "--level", "B1", *settings, "--gpu", "RTX 4090", "--price-per-hour", "0.5"]
    assert main(arguments) == 0
    table = {line[:28].strip(): line[28:] for line in capsys.readouterr().out.splitlines()}
    assert table["GPU"] == "GeForce RTX 4090, 25.4 GB"
    assert table["Memory of training"].startswith("about 0.")
    assert table["Cost of training"] == "about 0.00, in the currency of the price"
    assert main([*arguments, "--json"]) == 0
    fit = json.loads(capsys.readouterr().out)["plans"][0]["fit"]
    assert fit["gpu"] == "rtx4090"
    assert fit["training_bytes"]["total"] == sum(v for k, v in fit["training_bytes"].items() if k != "total")
    assert fit["cost"] == pytest.approx(0.5 * fit["seconds"] / 3600)


@pytest.mark.parametrize("backend", ["peft", "unsloth"])
def test_the_plan_is_of_the_backend_that_submit_would_take(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr(LocalScheduler, "backends", lambda _: [backend])
    settings = ["--set", f"model.name={tiny_model}", "--set", "training.max_length=2048", "--gpu", "l4"]
    plans = []
    for chosen in ("auto", backend):
        assert main(["plan", "--level", "B1", *settings, "--set", f"backend={chosen}"]) == 0
        plans.append(capsys.readouterr().out)
    assert plans[0] == plans[1]
    assert f"Backend                     {backend}" in plans[0].splitlines()


@pytest.mark.slow
def test_what_does_not_fit_is_a_problem(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["training.max_length=2048", "training.batch_size=300000", f"model.name={tiny_model}"]
    words = [word for one in settings for word in ("--set", one)]
    assert main(["plan", "--level", "B1", *words, "--gpu", "l4"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: level B1, memory: training needs about ")
    assert "it fits with training.batch_size=" in err
    assert main(["plan", "--level", "B1", *words, "--gpu", "l4", "--json"]) == 1
    out, err = capsys.readouterr()
    (plan,) = json.loads(out)["plans"]
    (problem,) = plan["problems"]
    assert err == f"error: level B1, {problem}\n"
    assert main(["plan", "--level", "B1", "--gpu", "gtx480"]) == 2
    assert main(["plan", "--level", "B1", "--price-per-hour", "1"]) == 2


def test_a_job_file_of_ones_own_is_named(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "b1.yaml").write_text("extends: base\nlevel: B1\ndata: starter\nlora: {rank: 7}\n")
    monkeypatch.chdir(tmp_path)
    settings = ["--profile", "smoke", "--set", f"model.name={tiny_model}", "--set", "training.max_length=2048"]
    assert main(["plan", "--level", "B1", *settings]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["Settings", "jobs/b1.yaml"]
    assert "LoRA" in (rank := next(line for line in lines if "rank 16" in line)), rank
    assert main(["submit", "--level", "B1", *settings, "--dry-run", "--store", str(tmp_path / "store")]) == 0
    assert "B1: jobs/b1.yaml and " in capsys.readouterr().out


def test_two_profiles_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--level", "B1", "--profile", "smoke", "--profile", "other"]) == 2
    assert "--profile can be given once, but is given 2 times (smoke, other)" in capsys.readouterr().err


def test_a_model_that_cannot_be_asked_by_chat_is_refused_with_the_way_out(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--level", "A1", "--set", f"model.name={tiny_model}", "--set", "model.prompt=chat"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    remedy = "set it to alpaca, or choose another model"
    assert err == f"error: model.prompt: the tokenizer in {tiny_model} has no chat template; {remedy}\n"


@pytest.mark.slow
def test_what_training_does_besides_is_said(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--level", "B1", "--set", f"model.name={tiny_model}", "--set", "training.max_length=2048"]
    assert main(arguments) == 0
    plain = capsys.readouterr().out
    options = ["model.adapter=tiny-a1-peft-v1", "training.loss_on=response", "training.early_stopping=3"]
    assert main([*arguments, *(word for one in options for word in ("--set", one))]) == 0
    said = [
        "from the adapter of tiny-a1-peft-v1",
        "or fewer: it stops after 3 evaluations without a lower loss",
        "loss on the responses",
    ]
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines if line.strip() in said] == said
    assert not any(one in plain for one in said)


def test_a_plan_of_several_values_is_of_every_run(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of a few of them has a column each; of more those with the first values, and the number of all."""
    common = ["plan", "--level", "B1", "--profile", "smoke", "--set", f"model.name={tiny_model}"]
    assert main([*common, "--set", "training.max_length=2048", "--set", "lora.rank=8,16"]) == 0
    table = {line[:28].strip(): line[28:].split() for line in capsys.readouterr().out.splitlines()}
    assert table["Varied"] == ["lora.rank=8", "lora.rank=16"]
    many = [*common, "--set", "training.max_length=2048", "--set", "lora.rank=8..11", "--set", "training.seed=1,2"]
    assert main(many) == 0
    out = capsys.readouterr().out
    assert out.endswith("8 runs in all; the table shows those with lora.rank=8, training.seed=1, --json shows all.\n")
    assert main([*many, "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)["plans"]
    assert [one["varied"] for one in plans][:3] == [
        ["lora.rank=8", "training.seed=1"],
        ["lora.rank=8", "training.seed=2"],
        ["lora.rank=9", "training.seed=1"],
    ]
    assert main([*common, "--set", "training.learning_rate=1e-4..1e-3:log"]) == 2
    assert (
        "stands for any number in a range, which only `search` can use; name the values to run"
        in capsys.readouterr().err
    )
