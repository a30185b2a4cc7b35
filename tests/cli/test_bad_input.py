"""Must show: bad specs and bad data. Each ends with exit 2 or 1 and a message that says where and what; no traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cefr_batch.cli.main import main

BASE = Path(__file__).parents[2] / "jobs" / "base.yaml"


@dataclass(frozen=True)
class Bad:
    """One kind of bad input: how to make it (returns the command line), the exit code, and what the message must name."""

    name: str
    make: Callable[[Path], list[str]]
    code: int
    says: tuple[str, ...]


def setting(text: str, *says: str) -> Bad:
    return Bad(f"--set {text}", lambda _: ["submit", "--level", "B1", "--set", text], 2, ("--set", *says))


def job_file(name: str, text: str | bytes, *says: str) -> Bad:
    """A jobs folder of the user's own, whose b1.yaml is ``text``."""

    def make(folder: Path) -> list[str]:
        (folder / "jobs" / "b1.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["submit", "--level", "B1"]

    return Bad(name, make, 2, says)


def data_file(name: str, content: object, *says: str) -> Bad:
    """A file in list format, given to ``data check``; JSON unless it is bytes."""

    def make(folder: Path) -> list[str]:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / "bad.json").write_bytes(raw)
        return ["data", "check", str(folder / "bad.json")]

    return Bad(name, make, 1, ("bad.json", *says))


def pairs_file(name: str, file: str, content: str, *says: str) -> Bad:
    def make(folder: Path) -> list[str]:
        (folder / file).write_text(content, encoding="utf-8")
        return ["submit", "--level", "B1", "--set", f"data.source={folder / file}"]

    return Bad(name, make, 1, (file, *says))


def submit(name: str, code: int, arguments: list[str], *says: str) -> Bad:
    return Bad(name, lambda _: ["submit", *arguments], code, says)


GOOD = {"instruction": "Write about:\n1. cat", "input": "", "output": "1. A cat sleeps."}
TEN = "\n".join(f"{n}. word{n}" for n in range(1, 11))

KINDS = [
    # settings
    setting("training.epochz=2", "training.epochz", "unknown key", "did you mean epochs"),
    setting("trainin.epochs=2", "trainin", "valid keys here: level, backend, model"),
    setting("training.epochs=many", "training.epochs", "a number", "'many'"),
    setting("training.epochs=0", "training.epochs", "greater than 0"),
    setting("training.epochs=.nan", "training.epochs", "finite"),
    setting("training.batch_size=1.5", "training.batch_size", "a whole number"),
    setting("training.batch_size=0", "training.batch_size", "greater than or equal to 1"),
    setting("training.learning_rate=-1e-4", "training.learning_rate", "greater than 0"),
    setting("training.warmup_ratio=1", "training.warmup_ratio", "less than 1"),
    setting("training.optimizer=sgd", "training.optimizer", "'adamw_8bit', 'adamw'"),
    setting("training.gradient_checkpointing=maybe", "training.gradient_checkpointing", "true or false"),
    setting("training.keep_checkpoints=1", "training.keep_checkpoints", "2"),
    setting("backend=jax", "backend", "'unsloth', 'peft'"),
    setting("lora=3", "lora", "3"),
    setting("lora.target_modules=[]", "lora.target_modules"),
    setting(
        "lora.target_modules=[q_proj, lm_head]",
        "lora.target_modules",
        "lm_head",
        "the same weights, so a merge would change both; remove lm_head",
    ),
    setting("lora.dropout=null", "lora.dropout", "a number"),
    setting("model.alias=My Model", "model.alias", "lower-case"),
    setting("data.train=train.json", "data", "eval missing"),
    setting("training.epochs", "'training.epochs' has no value; write it as KEY=VALUE, for example training.epochs=2"),
    setting("training.seed=[1", "training.seed", "not valid YAML"),
    setting("training.seed=2026-13-45", "training.seed", "is not a valid timestamp"),
    setting("training.max_steps=999999999999", "training.max_steps", "10000000"),
    setting("data={source: a.csv, train: b.json, eval: c.json}", "data", "not both"),
    # job files
    job_file("not YAML", "training: [1, 2\n", "b1.yaml", "line", "not valid YAML"),
    job_file("a key twice", "extends: base\nlevel: B1\nlevel: B1\n", "b1.yaml", "line 3", "is set twice"),
    job_file("not a mapping", "- level\n- B1\n", "b1.yaml", "mapping"),
    job_file("not UTF-8", b"level: \xff\xfe\n", "b1.yaml", "cannot be read"),
    job_file("another level", "extends: base\nlevel: A1\n", "b1.yaml", "sets level: 'A1', but is used for level B1"),
    job_file("no such parent", "extends: bases\nlevel: B1\n", "b1.yaml: extends", "bases.yaml does not exist"),
    job_file("extends itself", "extends: b1\nlevel: B1\n", "b1.yaml", "extends itself"),
    job_file("a path out of the folder", "extends: ../base\nlevel: B1\n", "b1.yaml", "extends"),
    job_file("unknown key in the file", "extends: base\nlevel: B1\nlora: {rnk: 8}\n", "b1.yaml", "lora.rnk", "rank"),
    # the command line
    submit("unknown level", 2, ["--level", "B7"], "B7", "A1, A2, B1, B2, C1"),
    submit("unknown profile", 2, ["--level", "B1", "--profile", "smok"], "smok", "smoke"),
    submit("unknown cluster", 2, ["--level", "B1", "--cluster", "moon"], "moon", "local"),
    submit("unknown kind of store", 2, ["--level", "B1", "--store", "ftp://host/x"], "ftp", "file://"),
    # models
    submit("no such folder", 1, ["--level", "B1", "--set", "model.name=./nowhere"], "nowhere"),
    submit("not a GGUF file", 1, ["--level", "B1", "--set", f"model.name={BASE.parent}/b1.gguf"], "b1.gguf"),
    # data
    Bad("no such data file", lambda f: ["data", "check", str(f / "none.json")], 1, ("none.json", "no such file")),
    data_file("not JSON", b'[{"instruction": ', "line 1"),
    data_file("cut UTF-16", json.dumps([GOOD]).encode("utf-16")[:-1], "UTF-8"),
    data_file("Latin-1", json.dumps([{**GOOD, "output": "1. Café."}], ensure_ascii=False).encode("latin-1"), "UTF-8"),
    data_file("not a list", {"instruction": "x"}, "list"),
    data_file("an empty list", [], "no examples"),
    data_file("an example that is no object", [GOOD, "text"], "index 1"),
    data_file("a missing key", [{"instruction": "Write."}], "index 0", "output"),
    data_file("an unknown key", [{**GOOD, "answer": "x"}], "index 0", "answer"),
    data_file("a number for a text", [{**GOOD, "output": 7}], "index 0", "output"),
    data_file("an empty output", [{**GOOD, "output": " "}], "index 0", "output"),
    data_file("too few sentences", [{**GOOD, "instruction": f"Write:\n{TEN}"}], "index 0", "10", "1"),
    data_file(
        "sentences out of order", [{**GOOD, "instruction": "W:\n1. a\n2. b", "output": "2. B.\n1. A."}], "index 0"
    ),
    data_file("conversations", [{"messages": [{"role": "user", "content": "Hi"}]}], "conversations", "instruction"),
    data_file("a NUL character", [{**GOOD, "output": "1. A\0cat."}], "index 0"),
    pairs_file("a table without its columns", "p.csv", "a,b\n1,2\n", "word", "sentence"),
    pairs_file("a pair without a sentence", "p.csv", "word,sentence\ncat,\n", "sentence"),
    pairs_file("a broken line of JSONL", "p.jsonl", '{"word": "cat", "sentence": "A cat."}\n{"word"\n', "line 2"),
    pairs_file("too few words", "p.csv", "word,sentence\ncat,A cat sleeps.\n", "data"),
]


@pytest.mark.parametrize("bad", KINDS, ids=[kind.name for kind in KINDS])
def test_bad_input(
    bad: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs").mkdir()
    for file in BASE.parent.rglob("*.yaml"):
        target = tmp_path / "jobs" / file.relative_to(BASE.parent)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(bad.make(tmp_path)) == bad.code
    shown = capfd.readouterr()
    message = shown.out + shown.err
    assert "Traceback" not in message
    for part in bad.says:
        assert part in message, f"{part!r} is not in: {message}"
    assert not (tmp_path / "runs").exists(), "something was written before everything was checked"


def test_there_are_at_least_thirty_kinds_all_different() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 30


def test_every_problem_of_every_level_is_in_one_message(capfd: pytest.CaptureFixture[str]) -> None:
    levels = ["--level", "A1", "--level", "B1"]
    settings = ["--set", "training.epochs=many", "--set", "lora.rank=0", "--set", "backend=jax", "--set", "nothing"]
    assert main(["submit", *levels, *settings]) == 2
    message = capfd.readouterr().err
    for part in ("training.epochs", "lora.rank", "backend", "'nothing'"):
        assert part in message
