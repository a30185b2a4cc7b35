"""generate: what a stored run's merged model writes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.prompts import CHATML, alpaca, make_chat_model
from support.report_stores import seal
from support.stored_runs import add_complete

from cefr_batch.cli.printable import printable
from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import Level
from cefr_batch.data import Example
from cefr_batch.data.build import instruction_for
from cefr_batch.records import layout
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.timestamps import now
from cefr_batch.store.local import LocalStore

RUN = "tiny-b1-peft-v1"
WORDS = ["travel", "decide", "ice cream"]
QUALITY = {"cut": True, "well_formed": False, "unused": WORDS}
DOUBTS = """note: the answer was cut off after 120 tokens, since the model did not end it
note: the answer is not one numbered sentence for each word and nothing else
note: the model did not use these words in their sentences: travel, decide, ice cream
"""
Command = Callable[..., Any]


@pytest.fixture
def run(store: LocalStore, tiny_model: Path) -> str:
    """A complete run of B1, trained on 3 words at a time, whose merged model is the tiny one."""
    return complete_run(store, tiny_model)


def complete_run(store: LocalStore, model: Path, *more: str) -> str:
    files = {f"merged/{file.name}": file.read_bytes() for file in sorted(model.iterdir())}
    add_complete(store, RUN, files)
    overrides = [f"model.name={model}", "data.words_per_example=3", "backend=peft", *more]
    spec = load_spec("B1", overrides=overrides)
    settings = spec.model_dump(mode="json")
    record = SpecRecord(run=RUN, dataset="0" * 64, spec=settings, submitted_at=now())
    store.put_record(layout.run_key(RUN, layout.SPEC), record)
    seal(store, RUN, layout.SPEC)
    return RUN


def expected(tiny_model: Path, words: list[str]) -> str:
    """Greedily, by transformers' own means."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")
    inputs = tokenizer(alpaca().prompt(Example(instruction_for(words, Level.B1), "", "")), return_tensors="pt")
    output = model.generate(**inputs, do_sample=False, max_new_tokens=40 * len(words))[0, inputs.input_ids.shape[1] :]
    return str(tokenizer.decode(output, skip_special_tokens=True)).strip()


def test_it_writes_what_the_merged_model_says_and_says_what_is_wrong_with_it(
    cefr_batch: Command, run: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = expected(tiny_model, WORDS)
    assert text
    first = cefr_batch("generate", run, "--words", "travel, decide ,ice  cream,")
    assert (first.code, first.out, first.err) == (0, f"{printable(text)}\n", DOUBTS)
    monkeypatch.setattr("sys.stdin", io.StringIO("travel\ndecide\nice cream\n"))
    piped = cefr_batch("generate", "--level", "B1", "--json")
    assert json.loads(piped.out) == {"run": run, "level": "B1", "words": WORDS, "text": text, **QUALITY}


def test_a_run_by_chat_template_is_asked_through_it(
    cefr_batch: Command, store: LocalStore, tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_chat_model(tiny_model, tmp_path / "chat", CHATML)
    result = cefr_batch(
        "generate", complete_run(store, folder, "model.prompt=chat"), "--words", ",".join(WORDS), "--json"
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": instruction_for(WORDS, Level.B1)}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    output = model.generate(**inputs, do_sample=False, max_new_tokens=120)[0, inputs["input_ids"].shape[1] :]
    assert json.loads(result.out)["text"] == tokenizer.decode(output, skip_special_tokens=True).strip()


@pytest.mark.slow
def test_sampling_is_seeded_and_the_base_model_may_stand_beside(
    cefr_batch: Command, run: str, tiny_model: Path
) -> None:
    def sampled(seed: str) -> str:
        return str(cefr_batch("generate", run, "--words", ",".join(WORDS), "--sample", "--seed", seed).out)

    assert sampled("1") == sampled("1") != sampled("2")
    result = cefr_batch("generate", run, "--words", ",".join(WORDS), "--baseline", "--json")
    assert json.loads(result.out)["baseline"] == json.loads(result.out)["text"]  # the tiny model is both
    shown = cefr_batch("generate", run, "--words", ",".join(WORDS), "--baseline").out
    assert shown.startswith(f"{run}:\n\n")
    assert f"{tiny_model}, untuned:\n\n" in shown


def test_a_model_is_fetched_once_and_verified_each_time(
    cefr_batch: Command, run: str, store: LocalStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ("--words", ",".join(WORDS))
    text = cefr_batch("generate", run, *words).out
    weights = layout.pulled_cache(store.url, run) / "merged" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert cefr_batch("generate", run, *words).out == text
    assert weights.stat().st_mtime_ns == before
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert cefr_batch("generate", run, *words).out == text
    assert weights.read_bytes() == data

    weights.unlink()
    monkeypatch.chdir(tmp_path)
    assert cefr_batch("pull", run, "--only", "merged").code == 0
    assert cefr_batch("generate", run, *words).out == text
    assert not weights.exists(), "the copy in ./pulled should do"


def test_slow_work_is_announced_apart_from_the_answer(
    cefr_batch: Command, run: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cefr_batch.cli.notice.SLOW_SECONDS", 0.0)
    result = cefr_batch("generate", run, "--words", ",".join(WORDS))
    assert (result.code, result.out) == (0, f"{printable(expected(tiny_model, WORDS))}\n")
    slow = "Still working: to load a model and write with it can take minutes without a GPU.\n"
    assert result.err == f"{slow}{DOUBTS}"


def test_another_number_of_words_than_it_was_trained_on_is_told(cefr_batch: Command, run: str) -> None:
    result = cefr_batch("generate", run, "--words", "travel")
    assert result.code == 0
    assert f"note: {run} was trained with 3 words at a time; with 1 its sentences may be worse\n" in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (" , ", "give 1 to 100 words, separated by commas or one per line (got 0)"),
        ("a," * 101, "give 1 to 100 words, separated by commas or one per line (got 101)"),
        ("a\x00b", "the words contain the control or broken character U+0000; remove it"),
        ("cat,<eos>", "the words contain <eos>, which the model would take for a control token; remove it"),
    ],
)
def test_words_that_cannot_be_asked_are_refused(cefr_batch: Command, run: str, words: str, message: str) -> None:
    result = cefr_batch("generate", run, "--words", words)
    assert (result.code, result.out, result.err) == (2, "", f"error: {message}\n")


def test_a_file_is_not_taken_for_words(
    cefr_batch: Command, run: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "words.xlsx").write_bytes(b"PK\x03\x04\x14")
    refused = cefr_batch("generate", run, "--words", str(tmp_path / "words.xlsx"))
    assert refused.code == 2
    assert "words.xlsx is a file; give a text file, one word per line: < FILE" in refused.err
    monkeypatch.setattr("sys.stdin", io.StringIO("PK\x03\x04\x14"))
    assert "is a spreadsheet (or another zip file)" in cefr_batch("generate", run).err


@pytest.mark.parametrize("option", ["--temperature", "--top-p"])
def test_nan_is_refused_rather_than_answered_with_nothing(cefr_batch: Command, run: str, option: str) -> None:
    result = cefr_batch("generate", run, "--words", "a", "--sample", option, "nan")
    assert (result.code, result.out, result.err) == (2, "", f"error: {option}: nan is not a number\n")


def test_runs_without_a_model_are_named(cefr_batch: Command, store: LocalStore) -> None:
    add_complete(store, RUN, {"adapter/weights": b"w"})
    add_complete(store, "tiny-a1-peft-v1")
    assert (
        cefr_batch("generate", RUN, "--words", "a").err
        == f"error: {RUN} stored no 'merged'; `cefr-batch pull {RUN}` fetches what it has\n"
    )
    both = cefr_batch("generate", RUN, "tiny-a1-peft-v1", "--words", "a")
    assert (both.code, both.err) == (
        2,
        f"error: generate uses one run at a time, but got 2: {RUN}, tiny-a1-peft-v1\n",
    )
    assert "no run 'tiny-b2-peft-v1'" in cefr_batch("generate", "tiny-b2-peft-v1", "--words", "a").err
