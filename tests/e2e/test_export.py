"""Must show: what llama.cpp's own code runs from an exported file is the merged model; a file that asks otherwise is caught.

The model is a small one of random weights, with SmolLM2's tokenizer, which the converter knows.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from support.exports import RUN, complete_run, needs_llama_cpp, publish
from support.prompts import CHATML
from support.runs import cefr_batch

from cefr_batch.config.schema import Level
from cefr_batch.data.build import instruction_for
from cefr_batch.export.verification import verify
from cefr_batch.records.document import read_file
from cefr_batch.records.exports import CheckRequest, ExportRecord
from cefr_batch.runner import Session
from cefr_batch.serve.writers import Draw, GgufWriter, Question
from cefr_batch.store.local import LocalStore

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's tokenizer, and two layers of random weights."""
    needs_llama_cpp()
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from cefr_batch.models.from_gguf import Metadata, tokenizer
    from cefr_batch.models.resolve import packaged_smollm2

    folder, gguf = tmp_path_factory.mktemp("base"), packaged_smollm2()
    assert gguf
    tokenizer(gguf, Metadata.read(gguf)).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=49152, **sizes, num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        pad_token_id=2, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    plain = re.compile("Ġ?[a-z]+")  # random weights must not write parts of characters, and tokens that end a text
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    with torch.no_grad():
        model.model.embed_tokens.weight[[i for text, i in vocabulary.items() if not plain.fullmatch(text)]] = 0
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def test_the_exported_model_is_the_merged_one(base: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    merged = publish(base, tmp_path / "merged")
    run = complete_run(store, merged)
    said = cefr_batch("export", run, "--to", "gguf", "--out", str(tmp_path / "out"), store=tmp_path / "store")
    folder = tmp_path / "out" / RUN / "gguf-f16"
    record = read_file(ExportRecord, folder / "export.json")
    assert record.check is not None, said
    assert (record.check.examples, record.check.equal_prompts, record.check.ends) == (2, 2, True)
    assert record.check.equal_texts + record.check.ties == 2
    assert abs(record.check.loss_change) < 5e-3
    assert "verified with llama.cpp" in said
    _another_template_is_caught(folder / f"{RUN}-f16.gguf", merged, next((tmp_path / "store" / "datasets").iterdir()))


def _another_template_is_caught(gguf: Path, merged: Path, dataset: Path) -> None:
    """The file as it is, but for its chat template, which is the base model's."""
    from gguf.scripts import gguf_new_metadata

    other = gguf.with_name("other.gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["", "--chat-template", CHATML, "--force", str(gguf), str(other)])
        gguf_new_metadata.main()
    request = CheckRequest(
        gguf=str(other),
        merged=str(merged),
        dataset=str(dataset),
        prompt="alpaca",
        max_length=512,
        examples=2,
        max_new_tokens=6,
    )
    check = verify(request).check
    assert check is not None
    assert check.equal_prompts == 0
    assert any("its chat template does not make the prompt that was trained" in one for one in check.problems("q8_0"))


def test_serve_and_the_cards_example_write_what_the_file_says(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """llama.cpp's own code behind the page, and as the card of the export says."""
    from cefr_batch.export.llama_cpp import LlamaCpp

    store = LocalStore(tmp_path / "store")
    run = complete_run(store, publish(base, tmp_path / "merged"))
    cefr_batch("export", run, "--to", "gguf", "--no-verify", store=tmp_path / "store")
    folder = tmp_path / "store" / "runs" / RUN / "exports" / "gguf-f16"
    words = ["travel"]
    request = instruction_for(words, Level.B1)
    expected = LlamaCpp(folder / f"{RUN}-f16.gguf", 512).ask(request, 40)
    assert expected

    writer, told = GgufWriter(Session(store), [run]), list[str]()
    assert writer.control_token(["a", "b <|im_end|>"]) == "<|im_end|>"
    writer.write([Question(0, Level.B1)], words, None, lambda _number, text, _end: told.append(text))
    assert told[-1] == expected
    assert told == sorted(told, key=len)
    drawn = []
    for seed in (1, 1, 2):
        writer.write(
            [Question(0, Level.B1)], words, Draw(1.0, 0.9, seed), lambda _number, text, _end: told.append(text)
        )
        drawn.append(told[-1])
    assert drawn[0] == drawn[1] != drawn[2]

    (block,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(block.replace("max_tokens=6", "max_tokens=40"), {"REQUEST": request})
    assert capsys.readouterr().out == f"{expected}\n"


def test_four_bits_are_llama_cpps_own(base: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    run = complete_run(store, publish(base, tmp_path / "merged"))
    cefr_batch("export", run, "--to", "gguf-q4_k_m,gguf", "--no-verify", store=tmp_path / "store")
    exports = tmp_path / "store" / "runs" / RUN / "exports"
    four, sixteen = (next((exports / f"gguf-{type_}").glob("*.gguf")).stat().st_size for type_ in ("q4_k_m", "f16"))
    assert four < 0.8 * sixteen
