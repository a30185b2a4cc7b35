"""Must show: with --gguf the stored exports write, in turn, what llama.cpp makes of the trained request.

llama.cpp is a stand-in here; tests/e2e/test_export.py has the real one.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.exports import RUN, complete_run, export_record, merged_folder

from cefr_batch.config.schema import Level
from cefr_batch.data.build import instruction_for
from cefr_batch.errors import CefrBatchError, NotFound, UsageError
from cefr_batch.records import layout
from cefr_batch.records.exports import GgufType
from cefr_batch.records.stages import StoredObject
from cefr_batch.runner import Session
from cefr_batch.serve import writers
from cefr_batch.serve.writers import Draw, GgufWriter, Question, Voice
from cefr_batch.store.local import LocalStore

WORDS = ["travel", "decide"]
ASKED = [Question(0, Level.B1), Question(1, Level.B1)]


class StandIn:
    """In place of ``export.llama_cpp.LlamaCpp``: answers with the file's own bytes, a letter at a time."""

    context = 200
    control = frozenset({"<|im_end|>"})

    def __init__(self, file: Path) -> None:
        self.text = file.read_text()
        self.asked: list[tuple[str, int, dict[str, float]]] = []

    def tokens(self, request: str) -> list[int]:
        return [0] * len(request.split())

    def stream(self, request: str, limit: int, **drawn: float) -> Iterator[tuple[str, bool]]:
        self.asked.append((request, limit, drawn))
        for end in range(1, len(self.text) + 1):
            yield self.text[:end], end == len(self.text)


def add_export(store: LocalStore, type_: GgufType, text: str) -> None:
    file = StoredObject(
        key=f"exports/gguf-{type_}/{RUN}-{type_}.gguf", size=len(text), sha256=hashlib.sha256(text.encode()).hexdigest()
    )
    store.put(layout.run_key(RUN, file.key), text.encode())
    record = export_record(RUN, type_, objects=[file])
    store.put_record(layout.run_key(RUN, layout.export_name(record.name)), record)


@pytest.fixture
def run(store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(writers, "_llama_cpp", lambda: StandIn)
    return complete_run(store, merged_folder(tmp_path / "merged"))


def test_each_answer_grows_in_turn_and_says_when_it_has_ended(run: str, store: LocalStore) -> None:
    add_export(store, "f16", "ab")
    writer = GgufWriter(Session(store), [run, run])
    assert writer.voices == [Voice(RUN, Level.B1, 2)] * 2
    told: list[tuple[int, str, bool]] = []
    writer.write(ASKED, WORDS, None, lambda number, text, end: told.append((number, text, end)))
    assert told == [(0, "a", False), (1, "a", False), (0, "ab", True), (1, "ab", True)]


def test_it_is_asked_as_it_was_trained_and_draws_as_it_is_told(
    run: str, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[StandIn] = []

    def load(file: Path) -> StandIn:
        made.append(StandIn(file))
        return made[-1]

    monkeypatch.setattr(writers, "_llama_cpp", lambda: load)
    add_export(store, "f16", "a")
    writer = GgufWriter(Session(store), [run])
    writer.write(ASKED[:1], WORDS, Draw(0.7, 0.9, 5), lambda *_: None)
    writer.write(ASKED[:1], WORDS, None, lambda *_: None)
    request = instruction_for(WORDS, Level.B1)
    assert made[0].asked == [(request, 80, {"temperature": 0.7, "top_p": 0.9, "seed": 5}), (request, 80, {})]


def test_the_most_exact_export_is_taken(run: str, store: LocalStore) -> None:
    add_export(store, "q4_k_m", "four")
    add_export(store, "q8_0", "eight")
    told: list[str] = []
    GgufWriter(Session(store), [run]).write(ASKED[:1], WORDS, None, lambda _n, text, _end: told.append(text))
    assert told[-1] == "eight"


def test_a_run_without_an_export_says_how_to_make_it(run: str, store: LocalStore) -> None:
    with pytest.raises(NotFound, match=f"no GGUF export of {RUN}; make it: `cefr-batch export {RUN} --to gguf`"):
        GgufWriter(Session(store), [run])


def test_more_than_it_can_read_and_tokens_of_its_own_are_found(run: str, store: LocalStore) -> None:
    add_export(store, "f16", "a")
    writer = GgufWriter(Session(store), [run])
    with pytest.raises(UsageError, match=f"5 words are more than {RUN} can read at once"):
        writer.write(ASKED[:1], ["travel"] * 5, None, lambda *_: None)
    assert writer.control_token(["go", "on <|im_end|> and"]) == "<|im_end|>"
    assert writer.control_token(WORDS) is None


def test_a_reader_who_leaves_ends_it(run: str, store: LocalStore) -> None:
    add_export(store, "f16", "abc")
    told: list[str] = []

    def leaves(_number: int, text: str, _end: bool) -> None:
        told.append(text)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        GgufWriter(Session(store), [run]).write(ASKED[:1], WORDS, None, leaves)
    assert told == ["a"]


def test_without_llama_cpp_it_says_what_to_install(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.delitem(sys.modules, "cefr_batch.export.llama_cpp", raising=False)
    with pytest.raises(CefrBatchError, match=r"--gguf needs llama.cpp, .*; run: pip install 'cefr-batch\[export\]'"):
        GgufWriter(Session(store), [RUN])


@pytest.mark.slow
def test_torch_is_not_loaded() -> None:
    code = "import sys, cefr_batch.serve.writers, cefr_batch.serve.writing; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
