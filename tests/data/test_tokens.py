"""Tokens are counted as transformers counts them, without transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.prompts import alpaca

from cefr_batch.data import Example, TokenCounter
from cefr_batch.errors import ModelError

TEXTS = ["", "A cat.", "  two\n\n lines\t", "café, 你好 🎉 1234", "<eos> in the text <pad>", "word " * 3000]


def test_counts_are_those_of_transformers(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    counter = TokenCounter(tiny_model / "tokenizer.json")
    assert counter.texts(TEXTS) == [len(tokenizer(text).input_ids) for text in TEXTS]
    assert counter.prompts.answer.end == tokenizer.eos_token == "<eos>"


def test_tokens_that_the_tokenizer_adds_are_counted_and_its_limits_ignored(tiny_model: Path, tmp_path: Path) -> None:
    """As with Llama 3's begin-of-text; a tokenizer.json may also ask for truncation and padding."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    backend = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    backend.post_processor = TemplateProcessing(single="<pad> $A", special_tokens=[("<pad>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>").save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert TokenCounter(tmp_path / "tokenizer.json").texts(TEXTS) == [len(tokenizer(text).input_ids) for text in TEXTS]
    assert TokenCounter(tmp_path / "tokenizer.json").texts([""]) == [1]


def test_an_examples_length_is_that_of_its_whole_text(tiny_model: Path) -> None:
    counter = TokenCounter(tiny_model / "tokenizer.json")
    examples = [Example("Do it.", "", "Done."), Example("Do it.", "With this.", "Done.")]
    assert counter(examples) == counter.texts([alpaca().text(e) for e in examples])
    assert counter(examples)[0] < counter(examples)[1]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"eos_token": {"content": "</s>"}}, None),
        ({}, "does not set eos_token, the end-of-text token; set it there"),
        ({"eos_token": None}, "eos_token must be the text of the end-of-text token, but is None; set it there"),
        ([], "does not set eos_token, the end-of-text token; set it there"),
    ],
)
def test_the_end_of_text_token_comes_from_the_config(
    tiny_model: Path, tmp_path: Path, config: object, reason: str | None
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tiny_model / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if reason is None:
        assert TokenCounter(tmp_path / "tokenizer.json").prompts.answer.end == "</s>"
    else:
        with pytest.raises(ModelError, match=reason):
            TokenCounter(tmp_path / "tokenizer.json")


def test_a_broken_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="is not a tokenizer that can be read"):
        TokenCounter(tmp_path / "tokenizer.json")


def test_counting_loads_neither_transformers_nor_torch(tiny_model: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom cefr_batch.data import TokenCounter\n"
        f"counts = TokenCounter(Path({str(tiny_model / 'tokenizer.json')!r})).texts(['A cat.'])\n"
        "print(counts, 'tokenizers' in sys.modules, {'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("] ")[1] == "True set()\n"
