"""Load models and tokenizers inside a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from cefr_batch.errors import ModelError
from cefr_batch.files import read_json
from cefr_batch.models.checks import GENERATION_CONFIG
from cefr_batch.models.device import device, reuse_freed_memory


@contextmanager
def _own_code_only(path: Path) -> Iterator[None]:
    """``ModelError`` for a folder that wants Python files of its own to be run: transformers refuses it when told so."""
    try:
        yield
    except ValueError as exc:
        if "trust_remote_code" not in str(exc):
            raise
        raise ModelError(
            f"the model in {path} can only be loaded by running Python code that comes with it, which cefr-batch never "
            "does; choose a model of an architecture that transformers knows. If this is a run's own model, its files "
            "were edited: `cefr-batch verify` names them"
        ) from exc


def load_tokenizer(path: Path) -> Any:
    """The tokenizer, with a padding token: its own, or else end-of-text (padding is masked everywhere)."""
    with _own_code_only(path):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer in {path} has no end-of-text token (eos_token), so training cannot teach the model where an "
            "answer ends; choose another model, or set eos_token in its tokenizer_config.json as its authors say"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def stored_dtype(path: Path) -> torch.dtype:
    """The 16-bit type of a model's weights; weights stored wider are taken as bf16, since that is what is published."""
    with _own_code_only(path):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if getattr(config, "quantization_config", None):
        raise ModelError(
            f"{path} holds quantized weights; name the model's 16-bit original (4-bit is made while training)"
        )
    return torch.float16 if config.dtype == torch.float16 else torch.bfloat16


def load_for_evaluation(path: Path) -> Any:
    """The model's 16-bit weights, computing in fp32: losses then do not depend on batch shapes, and a merge can be checked
    to rounding. Costs 4 bytes a parameter (5 GB for Llama-3.2-1B)."""
    with _own_code_only(path):
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=stored_dtype(path), generation_config=ends_of_text(path), trust_remote_code=False
        )
    model = model.to(device=device(), dtype=torch.float32).eval()
    reuse_freed_memory()
    return model


def ends_of_text(path: Path) -> GenerationConfig:
    """The tokens with which a model's own generation settings begin and end a text. The rest was made for another task: it
    would count wherever ours say nothing, and transformers refuses it where it contradicts itself."""
    file = path / GENERATION_CONFIG
    own = read_json(file if file.is_file() else path / "config.json")
    return GenerationConfig(bos_token_id=own.get("bos_token_id"), eos_token_id=own.get("eos_token_id"))


def stop_tokens(own: GenerationConfig, tokenizer: Any, end: str) -> list[int]:
    """The tokens at which a model has finished its response: ``end``, which closes it in the prompt format, end-of-text, and
    those that its own generation settings name."""
    ids = own.eos_token_id
    named = ids if isinstance(ids, list) else [] if ids is None else [ids]
    return sorted({tokenizer.convert_tokens_to_ids(end), tokenizer.eos_token_id, *named})
