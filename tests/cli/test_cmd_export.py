"""export: what is printed, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.exports import RUN, StandInConverter, check, complete_run, merged_folder

from cefr_batch.export import gguf, make
from cefr_batch.records.exports import CheckAnswer, TextDifference
from cefr_batch.store.local import LocalStore

Command = Callable[..., Any]
TIE = TextDifference(example=3, token=9, ours=" a", theirs=" the", our_gap=0.01, their_gap=0.0)


@pytest.fixture
def run(store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A complete run, and stand-ins for the converter and for llama.cpp, which finds a tie."""
    monkeypatch.setattr(gguf, "run_converter", StandInConverter())
    for module in (gguf, make):
        monkeypatch.setattr(module, "converter_version", lambda: "a stand-in 1.0")
    monkeypatch.setattr(make, "can_verify", lambda: True)
    monkeypatch.setattr(make, "_ask", lambda *_: CheckAnswer(check=check(equal_texts=19, differences=[TIE])))
    return complete_run(store, merged_folder(tmp_path / "merged"))


def test_it_says_where_it_is_how_it_was_verified_and_what_is_next(
    cefr_batch: Command, run: str, store: LocalStore
) -> None:
    result = cefr_batch("export", run, "--to", "gguf,ollama")
    assert (result.code, result.err) == (0, "")
    first, verdict, *following = result.out.splitlines()
    assert first.startswith(f"{run}: gguf-f16, ")
    assert first.endswith(f", in {store.url}/runs/{run}/exports/gguf-f16")
    assert verdict == (
        "  verified with llama.cpp (llama-cpp-python 0.3.36) on 20 examples: 20 prompts equal, 19 greedy texts equal (1 "
        "more except where two tokens are equally probable), loss 1.0000 (merged model 1.0000)"
    )
    assert following == [
        f"  cefr-batch pull {run} --only exports",
        f"  ollama create {run} -f pulled/{run}/exports/gguf-f16/Modelfile",
    ]
    again = cefr_batch("export", "--level", "B1", "--to", "gguf")
    assert again.out.splitlines()[0] == f"{first}, there already"


def test_into_a_folder_and_as_json(cefr_batch: Command, run: str, tmp_path: Path) -> None:
    result = cefr_batch(
        "export", run, "--to", "gguf-q8_0", "--to", "ollama-q8_0", "--out", str(tmp_path / "out"), "--json"
    )
    (one,) = json.loads(result.out)["exports"]
    assert (one["form"], one["where"]) == ("gguf-q8_0", str(tmp_path / "out" / run / "gguf-q8_0"))
    assert one["record"]["check"]["equal_texts"] == 19
    assert (tmp_path / "out" / run / "gguf-q8_0" / f"{run}-q8_0.gguf").is_file()


def test_not_verified_is_said_with_the_way_out(cefr_batch: Command, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "can_verify", lambda: False)
    result = cefr_batch("export", run, "--to", "gguf")
    assert result.code == 0
    assert (
        "  not verified: llama.cpp is not installed on the machine that made this file; install it there with pip install"
        in result.out
    )
    assert result.err == "", "said once"


def test_a_wrong_export_is_a_failure(cefr_batch: Command, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "_ask", lambda *_: CheckAnswer(check=check(exported_loss=1.2)))
    result = cefr_batch("export", run, "--to", "gguf")
    assert result.code == 1
    assert (
        f"error: {run}-f16.gguf is not the model that was trained, so it is not kept: its loss is 1.2000" in result.err
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "gguf,onnx"], "--to: there is no format 'onnx'; valid: gguf, gguf-q8_0, gguf-q4_k_m, ollama, "),
        (["--to", "vllm"], "--to vllm needs --out DIR"),
        (["--to", "hub"], "--to hub needs --repo OWNER/NAME"),
        (["--to", "gguf", "--repo", "me/model"], "--repo and --dry-run need --to hub"),
        (["--to", "gguf", "--dry-run"], "--repo and --dry-run need --to hub"),
        ([], "Missing option '--to'"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(options: list[str], message: str, cefr_batch: Command, run: str) -> None:
    result = cefr_batch("export", RUN, *options)
    assert (result.code, message in result.err) == (2, True), result.err


def test_the_hub_takes_one_run_at_a_time(cefr_batch: Command, run: str, store: LocalStore) -> None:
    from support.stored_runs import add_complete

    add_complete(store, "tiny-a1-peft-v1")
    result = cefr_batch("export", run, "tiny-a1-peft-v1", "--to", "hub", "--repo", "me/model")
    assert (result.code, "takes one run at a time, but got 2" in result.err) == (2, True)
