"""``python -m cefr_batch.models.from_gguf SOURCE.gguf TARGET``: a GGUF file → a folder that transformers loads, in bf16.

The folder appears whole or not at all; of several converters of one file, the first works and the others wait for it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import gguf
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from cefr_batch.files import locked
from cefr_batch.records.layout import CARD


@dataclass(frozen=True)
class Metadata:
    """The file's own settings of its tokenizer, of which transformers 5.17 reads some wrongly (end-of-text as begin)."""

    bos: int | None
    eos: int | None
    pad: int | None
    unk: int | None
    add_bos: bool
    context_length: int
    chat_template: str | None
    licence: str | None

    @classmethod
    def read(cls, path: Path) -> Metadata:
        """From a GGUF file. Raises ``KeyError`` where it lacks what every model has."""
        fields = gguf.GGUFReader(path).fields

        def value(key: str, default: Any = None) -> Any:
            return fields[key].contents() if key in fields else default

        prefix = "tokenizer.ggml"
        return cls(
            bos=value(f"{prefix}.bos_token_id"),
            eos=value(f"{prefix}.eos_token_id"),
            pad=value(f"{prefix}.padding_token_id"),
            unk=value(f"{prefix}.unknown_token_id"),
            add_bos=bool(value(f"{prefix}.add_bos_token", value(f"{prefix}.model") == "llama")),
            context_length=int(value(f"{value('general.architecture')}.context_length")),
            chat_template=value("tokenizer.chat_template"),
            licence=value("general.license"),
        )


def convert(source: Path, target: Path) -> None:
    """Make the folder ``target`` unless it is there. Blocks while another process makes it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f".{target.name}.lock")):
        if target.is_dir():
            return
        aside = target.with_name(f".{target.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)  # of a converter that was killed
        metadata = Metadata.read(source)
        tokenizer(source, metadata).save_pretrained(aside)
        model(source, metadata).save_pretrained(aside)
        if metadata.licence:
            (aside / CARD).write_text(f"---\nlicense: {json.dumps(metadata.licence)}\n---\n", encoding="utf-8")
        aside.rename(target)


def tokenizer(source: Path, metadata: Metadata) -> Any:
    """The tokenizer with the special tokens that the file names, and a begin-of-text token where the file asks for one."""
    read = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, trust_remote_code=False)
    ids = {"bos_token": metadata.bos, "eos_token": metadata.eos, "pad_token": metadata.pad, "unk_token": metadata.unk}
    special = {name: read.convert_ids_to_tokens(i) for name, i in ids.items() if i is not None}
    backend = read.backend_tokenizer
    if metadata.add_bos and metadata.bos is not None:
        bos = special["bos_token"]
        backend.post_processor = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, metadata.bos)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=metadata.context_length,
        chat_template=metadata.chat_template,
        clean_up_tokenization_spaces=False,
        **special,
    )


def model(source: Path, metadata: Metadata) -> Any:
    """The weights in a plain model: transformers refuses to save the one that it reads from GGUF, as quantized."""
    read = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32, trust_remote_code=False
    )
    config = read.config
    for name in ("quantization_config", "_model_name_or_path"):
        vars(config).pop(name, None)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = metadata.bos, metadata.eos, metadata.pad
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    plain.load_state_dict(read.state_dict())
    return plain


if __name__ == "__main__":
    disable_progress_bar()
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
