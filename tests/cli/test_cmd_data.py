"""``cefr-batch data``: check names bad examples, stats gives the published table, build writes a run's examples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook
from support.published import published

from cefr_batch.cli.main import main
from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import Level
from cefr_batch.data import load_dataset
from cefr_batch.data.pairs import read_pairs, starter_file


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
        "  warning: index 1 (from 0): a word is not in its sentence (word 2, 'dog', in 'An owl.')",
        f"{good}: 1 examples, 0 errors, 0 warnings",
        f"{pairs}: 1 sentence pairs, 1 error, 0 warnings",
        "  error: line 3: the sentence is empty",
        f"{tmp_path / 'none.json'}: 0 examples, 1 error, 0 warnings",
        "  error: no such file",
    ]


def test_check_looks_for_evaluation_sentences_in_the_training_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, evaluation = tmp_path / "train.csv", tmp_path / "eval.json"
    near = "favorite,My favorite colour is blue.\nfavourite,My favourite colour is blue.\n"
    train.write_text(f"word,sentence\ncat,A cat.\n{near}night,The sky is dark at night.\n")
    sentences = ["A cat.", "My favourite color is blue!", "The sky is black at night."]
    words = ["cat", "color", "black"]
    items = [
        {"instruction": f"W:\n1. {word}", "output": f"1. {one}"} for word, one in zip(words, sentences, strict=True)
    ]
    evaluation.write_text(json.dumps(items))
    assert main(["data", "check", str(train), "--eval", str(evaluation)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{train}: 4 sentence pairs, 0 errors, 1 warning",
        "  warning: line 4: a sentence is nearly the same as an earlier one; data.split_by: similar_sentence keeps both "
        "in one set ('My favourite colour is blue.', earlier 'My favorite colour is blue.')",
        f"{evaluation}: 3 examples, 0 errors, 0 warnings",
        "  warning: 1 of the different evaluation sentences are in the training files word for word: 'A cat.'",
        "  warning: 1 of the different evaluation sentences are nearly in the training files: 'My favourite color is "
        "blue!', there 'My favorite colour is blue.'",
    ]


def test_check_tells_each_problem_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "many.csv"
    file.write_text("word,sentence\n" + "cat,\n" * 50 + "".join(f"cat,A dog {n}.\n" for n in range(50)))
    assert main(["data", "check", str(file)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: 50 sentence pairs, 1 error, 1 warning",
        "  error: the sentence is empty; 50 times, at line 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …",
        "  warning: the word is not in its sentence; the pair is used as it is; 50 times, at line "
        + ", ".join(f"{52 + n} ('cat' in 'A dog {n}.')" for n in range(10))
        + ", …",
    ]


def test_a_file_name_in_another_encoding_is_no_bug(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good_file(tmp_path).rename(tmp_path / "s\udcf6z.json")
    assert main(["data", "stats", "--json", str(tmp_path / "s\udcf6z.json")]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["file"] == str(tmp_path / "s\ufffdz.json")
    assert main(["data", "build", str(tmp_path / "s\udcf6z.csv"), "--level", "A1", "--out", str(tmp_path / "o")]) == 2
    assert "data.source: must be text in UTF-8; if it is a file's name, rename the file" in capsys.readouterr().err


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
    assert leakage.startswith("Leakage: 99.0 % of the evaluation sentences occur word for word in the training data")


def test_stats_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(good_file(tmp_path, name)) for name in ("a.json", "b.json")]
    assert main(["data", "stats", files[0], "--eval", files[1], "--json"]) == 0
    numbers = {"examples": 1, "unique_words": 1, "sentences": 1, "unique_sentences": 1, "longest_example_tokens": None}
    assert json.loads(capsys.readouterr().out) == {
        "files": [{"file": file, **numbers} for file in files],
        "leakage": {"sentences_percent": 100.0, "words_percent": 100.0, "near_sentences_percent": 100.0},
    }
    assert main(["data", "stats", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["leakage"] is None


@pytest.mark.slow
def test_stats_estimates_the_level_of_the_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for level in ("a1", "c1"):
        assert main(["data", "build", "starter", "--level", level, "--out", str(tmp_path / level)]) == 0
        files.append(str(tmp_path / level / "train.json"))
    capsys.readouterr()
    assert main(["data", "stats", "--level", "--json", *files]) == 0
    easy, hard = (file["estimated_level"] for file in json.loads(capsys.readouterr().out)["files"])
    assert 1 <= easy < hard - 1.5 <= 6
    assert main(["data", "stats", "--level", *files]) == 0
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.endswith("LEVEL")
    assert (float(first.split()[-1]), float(second.split()[-1])) == (easy, hard)


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
    assert "and 0.0 % of the evaluation words occur in it" in out[3]


def test_build_of_a_levels_own_file_knows_its_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"kelime{n};This is kelime{n}.\n" for n in range(20))
    for name in ("mine.csv", "other.csv"):
        Path(name).write_text(f"Kelime;Cümle\n{rows}")
    Path("jobs").mkdir()
    columns = "{word: Kelime, sentence: Cümle}"
    Path("jobs/a1.yaml").write_text(f"extends: base\nlevel: A1\ndata: {{source: ../mine.csv, columns: {columns}}}\n")
    build = ["--level", "A1", "--examples=10", "--words-per-example=2"]
    assert main(["data", "build", "mine.csv", "--out", "out", *build]) == 0
    assert main(["data", "build", "other.csv", "--out", "others", *build]) == 1
    assert "--columns word=…,sentence=…" in capsys.readouterr().err


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


def test_check_finds_control_tokens_of_a_model_in_either_form(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples, pairs = tmp_path / "examples.json", tmp_path / "pairs.csv"
    good, bad = {"instruction": "1. cat", "output": "1. A cat."}, {"instruction": "1. dog", "output": "1. A dog <eos>."}
    examples.write_text(json.dumps([good, bad]))
    pairs.write_text("word,sentence\ncat,A cat.\ndog,A dog <eos>.\n")
    assert main(["data", "check", str(examples), str(pairs)]) == 0, "they are text unless a model takes them for more"
    capsys.readouterr()
    assert main(["data", "check", str(examples), str(pairs), "--model", str(tiny_model)]) == 1
    out, _ = capsys.readouterr()
    advice = "has <eos> in its text, which the model would take for a control token; remove it"
    assert f"  error: index 1 (from 0): {advice}\n" in out
    assert f"  error: line 3: {advice}\n" in out


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


def test_columns_and_levels_on_the_command_line(cefr_batch: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    rows = [f"word{w};Cümle {s} has word{w} in it." for w in range(12) for s in range(9)]
    path.write_text("\n".join(["Kelime;Cümle", *rows, "daunting;It is daunting."]))
    named = ("--columns", "word=Kelime,sentence=Cümle")
    checked = cefr_batch("data", "check", str(path), *named, "--level", "a1")
    assert checked.code == 0
    assert "warning: line 110: a word is above A1 in a word list that ignores meaning ('daunting', C2)" in checked.out
    assert "is above" not in cefr_batch("data", "check", str(path), *named).out
    refused = cefr_batch("data", "check", str(path)).out
    assert "the first line must be 'word,sentence', but is 'Kelime;Cümle'" in refused
    assert "say so: --columns word=…,sentence=…)" in refused
    assert "--set" not in refused
    out = str(tmp_path / "built")
    built = ("data", "build", str(path), "--level", "A1", "--out", out, "--examples", "20", "--split-by", "example")
    refused = cefr_batch(*built)
    assert "say so: --columns word=…,sentence=…)" in refused.err
    assert "--set" not in refused.err
    assert cefr_batch(*built, *named).code == 0
    assert cefr_batch("data", "check", str(path), "--columns", "Kelime").code == 2


def test_stats_of_sentence_pairs_in_a_spreadsheet_with_its_own_names(
    cefr_batch: Callable[..., Any], tmp_path: Path
) -> None:
    path, evaluation = tmp_path / "mine.xlsx", tmp_path / "eval.csv"
    book = Workbook()
    book.active.title = "Ünite 1"
    rows = [
        ("Kelime", "Cümle"),
        ("cat", "A cat."),
        ("Cat", "A cat sleeps."),
        ("dog", "2. A dog."),
        ("dog", "2. A dog."),
    ]
    for row in rows:
        book.active.append(row)
    book.copy_worksheet(book.active).title = "Ünite 2"
    book.save(path)
    evaluation.write_text("Kelime,Cümle\ncat,A cat.\n")
    named = ("--columns", "word=Kelime,sentence=Cümle")
    assert "say so: --columns word=…,sentence=…)" in cefr_batch("data", "stats", str(path)).err
    assert "name the one to read with --sheet, or save" in cefr_batch("data", "stats", str(path), *named).err
    one = (*named, "--sheet", "Ünite 1")
    shown = cefr_batch("data", "stats", str(path), *one)
    assert (shown.code, shown.out.splitlines()[1].split()) == (0, [str(path), "2", "3", "3"])
    (file,) = json.loads(cefr_batch("data", "stats", str(path), *one, "--json").out)["files"]
    assert (file["examples"], file["unique_words"], file["sentences"]) == (None, 2, 3)
    leak = cefr_batch("data", "stats", str(evaluation), "--eval", str(evaluation), *named)
    assert "Leakage: 100.0 % of the evaluation sentences" in leak.out


def test_where_examples_are_asked_for_a_table_is_told_so(cefr_batch: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("Kelime;Cümle\nkedi;Kedi uyuyor.\n")
    refused = cefr_batch("data", "pairs", str(path), "--out", str(tmp_path / "pairs.json"))
    assert refused.code == 1
    assert "(a table holds sentence pairs; give it as data.source, or run `cefr-batch data build`)" in refused.err
