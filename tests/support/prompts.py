"""Prompt formats and chat tokenizers for tests: that of the tiny model, with a template and the tokens that it writes."""

from __future__ import annotations

import shutil
from pathlib import Path

from cefr_batch.data.prompts import AlpacaFormat
from cefr_batch.data.special_tokens import SpecialTokens

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def alpaca(end_of_text: str = "<eos>") -> AlpacaFormat:
    """The Alpaca prompt of a model with this end-of-text token; the tiny model's unless told otherwise."""
    return AlpacaFormat(SpecialTokens({"eos_token": end_of_text}, frozenset([end_of_text]), frozenset([end_of_text])))


def make_chat_tokenizer(
    tiny_model: Path, folder: Path, template: str | None, *, around: str = "$A", tokens: tuple[str, ...] = ()
) -> Path:
    """The tiny model's tokenizer with this chat template, ``<bos>`` and ChatML's tokens besides ``tokens``; ``around``: what
    it puts around a text, as in ``<bos> $A <eos>``."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    shutil.rmtree(folder, ignore_errors=True)
    backend = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    added = ["<bos>", "<|im_start|>", "<|im_end|>", *tokens]
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in added])
    written = [(text, backend.token_to_id(text)) for text in around.split() if text != "$A"]
    backend.post_processor = TemplateProcessing(single=around, special_tokens=written)
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **named)
    tokenizer.save_pretrained(folder)
    return folder


def make_chat_model(tiny_model: Path, folder: Path, template: str | None, *, around: str = "$A") -> Path:
    """The tiny model with a chat tokenizer, its embedding made larger for the new tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_chat_tokenizer(tiny_model, folder, template, around=around)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    model.resize_token_embeddings(len(AutoTokenizer.from_pretrained(folder)), mean_resizing=False)
    model.save_pretrained(folder)
    return folder
