"""``cefr-batch data``: check names bad examples, stats gives the published table, build writes a run's examples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published import published

from cefr_batch.cli.main import main
from cefr_batch.data import load_dataset
from cefr_batch.data.pairs import read_pairs, starter_file
from cefr_batch.levels import Level
from cefr_batch.spec import load_spec


def good_file(folder: Path, name: str = "good.json") -> Path:
    file = folder / name
    file.write_text(json.dumps([{"instruction": "Sentences:\n1. cat", "input": "", "output": "1. A cat."}]))
    return file


def test_check_names_each_bad_example_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, good, pairs = tmp_path / "bad.json", good_file(tmp_path), tmp_path / "pairs.csv"
    items = [
        {"instruction": "a", "output": ""},
        {"instruction": "W:\n1. cat\n2. dog", "output": "1. A cat.\n2. An owl."},
        3,
    ]
    bad.write_text(json.dumps(items))
    pairs.write_text("word,sentence\ncat,A cat.\ndog,\n")
    assert main(["data", "check", str(bad), str(good), str(pairs), str(tmp_path / "none.json")]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        f"{bad}: 1 examples, 2 errors, 1 warning",
        "  error: index 0 (from 0): output is empty",
        "  error: index 2 (from 0): must be an object with instruction, input and output, but is a number",
        "  warning: index 1 (from 0): word 2 (dog) is not in its sentence: 'An owl.'",
        f"{good}: 1 examples, 0 errors, 0 warnings",
        f"{pairs}: 1 sentence pairs, 1 error, 0 warnings",
        "  error: line 3: the sentence is empty",
        f"{tmp_path / 'none.json'}: 0 examples, 1 error, 0 warnings",
        "  error: no such file",
    ]


def test_check_shows_every_error_but_only_some_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "many.csv"
    file.write_text("word,sentence\n" + "cat,\n" * 50 + "".join(f"cat,A dog {n}.\n" for n in range(50)))
    assert main(["data", "check", str(file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("  error: ") for line in lines) == 50
    assert sum(line.startswith("  warning: ") for line in lines) == 20
    assert lines[-1] == "  and 30 more warnings"


def test_check_passes_all_that_ships_and_was_published(capsys: pytest.CaptureFixture[str]) -> None:
    names = [
        f"training_data_{level}_list_format_{side}.json" for level in ("a1", "a2", "b1") for side in ("train", "eval")
    ]
    files = [*(published(name) for name in names), published("training_data_b1.json"), *map(starter_file, Level)]
    assert main(["data", "check", *map(str, files)]) == 0
    assert capsys.readouterr().out.count(", 0 errors, ") == len(files) == 12


def test_stats_gives_the_published_table(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, evaluation = (published(f"training_data_b1_list_format_{side}.json") for side in ("train", "eval"))
    assert main(["data", "stats", str(train), "--eval", str(evaluation), "--model", str(tiny_model)]) == 0
    heading, first, second, leakage = capsys.readouterr().out.splitlines()
    assert heading.split("  ")[0] == "FILE"
    assert first.split()[:5] == [str(train), "1,800", "806", "18,000", "3,999"]
    assert second.split()[:5] == [str(evaluation), "200", "728", "2,000", "1,587"]
    assert first.endswith(" tokens")
    assert leakage.startswith("Leakage: 99.0 % of the evaluation sentences stand word for word in the training data")


def test_stats_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(good_file(tmp_path, name)) for name in ("a.json", "b.json")]
    assert main(["data", "stats", files[0], "--eval", files[1], "--json"]) == 0
    numbers = {"examples": 1, "unique_words": 1, "sentences": 1, "unique_sentences": 1, "longest_example_tokens": None}
    assert json.loads(capsys.readouterr().out) == {
        "files": [{"file": file, **numbers} for file in files],
        "leakage": {"sentences_percent": 100.0, "words_percent": 100.0},
    }
    assert main(["data", "stats", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["leakage"] is None


def test_build_writes_what_a_run_of_that_level_would_train_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "b2"
    assert main(["data", "build", "starter", "--level", "b2", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == [str(out / "train.json"), "1,800", "60"]
    assert lines[2].split()[:2] == [str(out / "eval.json"), "200"]
    assert lines[3].startswith("Leakage: 0.0 % of the evaluation sentences")
    assert lines[4] == f"Use them with --set data.train={out}/train.json --set data.eval={out}/eval.json"
    expected = load_dataset(load_spec("B2").data, Level.B2)
    assert (out / "train.json").read_bytes() == expected.train_bytes
    assert (out / "eval.json").read_bytes() == expected.eval_bytes
    assert sorted(path.name for path in out.iterdir()) == ["eval.json", "train.json"]


def test_build_takes_its_settings_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "my: own, 'pairs'.csv"  # a name that YAML would take apart
    source.write_text("word;sentence\n" + "".join(f"word{n};This is word{n}.\n" for n in range(20)))
    settings = ["--examples=40", "--eval-fraction=0.25", "--words-per-example=4", "--split-by=word", "--seed=3"]
    assert main(["data", "build", str(source), "--level", "A1", "--out", str(tmp_path / "out"), *settings]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1].split()[1:5] == ["30", "15", "120", "15"]
    assert out[2].split()[1:5] == ["10", "5", "40", "5"]
    assert "and 0.0 % of the evaluation words are there" in out[3]


def test_build_does_not_overwrite_unless_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "eval.json").write_text("precious")
    command = ["data", "build", "starter", "--level", "A1", "--out", str(tmp_path)]
    assert main(command) == 2
    there = tmp_path / "eval.json"
    assert (
        capsys.readouterr().err == f"error: already there: {there}; choose another --out, or overwrite with --force\n"
    )
    assert there.read_text() == "precious"
    assert not (tmp_path / "train.json").exists()
    assert main([*command, "--force"]) == 0
    assert len(json.loads(there.read_text())) == 200


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["starter", "--level", "D1"], 2, "'D1' is not a level; valid: A1, A2, B1, B2, C1"),
        (["starter", "--level", "A1", "--examples", "1"], 2, "data.examples: must be greater than or equal to 2"),
        (["starter", "--level", "A1", "--split-by", "chance"], 2, "data.split_by: must be one of"),
        (["starter", "--level", "A1", "--split-by", "word"], 1, "holding out 10% of 60 words leaves 6 different words"),
        (["none.csv", "--level", "A1"], 1, "none.csv: no such file"),
        (["starter", "--level", "A1", "--examples", "many"], 2, "'many' is not a valid integer"),
    ],
)
def test_build_refuses_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert main(["data", "build", *arguments, "--out", str(tmp_path / "out")]) == code
    out, err = capsys.readouterr()
    assert message in err
    assert (out, "Traceback" in err) == ("", False)
    assert not (tmp_path / "out").exists()


def test_build_says_where_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["data", "build", "starter", "--level", "A1", "--out", str(tmp_path / "file" / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"error: cannot write {tmp_path / 'file'}")


def test_pairs_takes_examples_apart_so_that_they_can_be_split_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples, out = tmp_path / "built", tmp_path / "pairs.json"
    assert main(["data", "build", "starter", "--level", "A1", "--out", str(examples)]) == 0
    files = [str(examples / name) for name in ("train.json", "eval.json")]
    capsys.readouterr()
    assert main(["data", "pairs", *files, "--out", str(out)]) == 0
    next_step = f"build examples with `cefr-batch data build {out} --level …`"
    assert capsys.readouterr().out == f"{out}: 180 sentence pairs; {next_step}\n"
    assert set(read_pairs(str(out), Level.A1)) == set(read_pairs("starter", Level.A1))
    assert main(["data", "pairs", *files, "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith(f"error: already there: {out}; ")
    assert main(["data", "pairs", *files, "--out", str(out), "--force"]) == 0


def test_pairs_refuses_what_holds_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "free.json"
    file.write_text(json.dumps([{"instruction": "Say something.", "input": "", "output": "A dog."}]))
    assert main(["data", "pairs", str(file), "--out", str(tmp_path / "pairs.json")]) == 2
    assert capsys.readouterr().err == (
        "error: no example lists numbered words, so there are no pairs of word and sentence\n"
    )
    assert main(["data", "pairs", str(file), "--out", str(tmp_path / "pairs.csv")]) == 2
    assert "must end in .json" in capsys.readouterr().err
    assert not list(tmp_path.glob("pairs*"))
