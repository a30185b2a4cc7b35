"""A model that could not be trained is refused before anything starts: each fault is made in a real small model's folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hub import running_hub

from cefr_batch.cli.main import main
from cefr_batch.config.schema import ModelSpec
from cefr_batch.errors import ModelError
from cefr_batch.models.architecture import Architecture
from cefr_batch.models.checks import linear_modules, model_problems, module_problems
from cefr_batch.models.resolve import check_model, resolve_model
from cefr_batch.models.weights import Weight, local_weights

MODULES = ("q_proj", "v_proj", "down_proj")


def model(name: str | Path) -> ModelSpec:
    return ModelSpec(name=str(name), revision=None, alias=None, load_in_4bit=True)


def edit(folder: Path, file: str, **changes: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def replace_weights(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)


def cut(folder: Path) -> None:
    replace_weights(folder, (folder / "model.safetensors").read_bytes()[:-2000])


def without(name: str) -> Callable[[Path], None]:
    """The weights without a tensor."""

    def drop(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return drop


def as_bytes(folder: Path) -> None:
    """Every matrix as 8-bit numbers, as quantizers write them."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = {k: v.to(torch.uint8) if v.dim() == 2 else v for k, v in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def more_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 99_999, "content": "[PAD]"})
    path.write_text(json.dumps(tokenizer))


def generation_settings(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "generation_config.json").write_text(text)

    return write


UNREADABLE = "has an unreadable generation_config.json; download it again, or remove it"
FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "quantized": (
        lambda f: edit(f, "config.json", quantization_config={"quant_method": "bitsandbytes"}),
        "holds quantized weights; name the model's 16-bit original",
    ),
    "8-bit matrices": (as_bytes, "has weights of type U8; name the model's original in 16 or 32 bits"),
    "Git LFS pointer": (
        lambda f: replace_weights(f, b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 77624\n"),
        "is a Git LFS pointer, not the weights; run `git lfs pull` in its folder",
    ),
    "cut off": (cut, "is cut off at"),
    "no safetensors file": (lambda f: replace_weights(f, b"\x00" * 64), "is not a safetensors file that can be read"),
    "a layer too few": (
        lambda f: edit(f, "config.json", num_hidden_layers=3),
        "lacks the weights layers.2.self_attn.q_proj.weight",
    ),
    "no output matrix": (
        lambda f: edit(f, "config.json", tie_word_embeddings=False),
        "lacks the weights lm_head.weight, which its config.json asks for",
    ),
    "no norm": (without("model.norm.weight"), "lacks the weights norm.weight"),
    "another width": (lambda f: edit(f, "config.json", vocab_size=7), "has embed_tokens.weight of shape"),
    "unknown kind": (lambda f: edit(f, "config.json", model_type="llama9"), "is of type 'llama9', which the installed"),
    "generation settings that are no JSON": (
        generation_settings("version https://git-lfs.github.com/spec/v1\n"),
        UNREADABLE,
    ),
    "generation settings that are a list": (generation_settings("[]"), UNREADABLE),
    "generation settings nested without end": (generation_settings("[" * 100_000), UNREADABLE),
    "an end that is no token": (
        generation_settings('{"eos_token_id": [0, "<eos>"]}'),
        "has a generation_config.json whose bos_token_id or eos_token_id is no token's number; correct or remove it",
    ),
    "tokens without a row": (more_tokens, "have no row; remove them from the tokenizer"),
}


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def found(folder: Path, modules: tuple[str, ...] = MODULES) -> str:
    try:
        return "\n".join(map(str, check_model(model(folder), modules)))
    except ModelError as exc:
        return str(exc)


@pytest.mark.parametrize(("spoil", "told"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_told_before_and_in_the_job(folder: Path, spoil: Callable[[Path], None], told: str) -> None:
    assert found(folder) == ""
    spoil(folder)
    assert told in found(folder)
    with pytest.raises(ModelError, match=re.escape(told)):
        resolve_model(model(folder))


def test_plan_and_submit_refuse_the_model(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(folder, "config.json", num_hidden_layers=3)
    options = ("--level", "B1", "--profile", "smoke", "--set", f"model.name={folder}")
    for command in (("plan",), ("submit", "--dry-run", "--store", str(tmp_path / "store"))):
        assert main([*command, *options]) == 1
        assert f"model.name: {folder} lacks the weights layers.2" in "".join(capsys.readouterr())


def test_target_modules_that_the_model_lacks_are_named_with_those_that_it_has(folder: Path) -> None:
    assert found(folder, ("q_proj", "c_attn", "query")) == (
        "lora.target_modules: c_attn, query: no such modules in the model; "
        "it has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj "
        "(set lora.target_modules=all-linear for all of them)"
    )


def test_all_linear_needs_a_model_whose_modules_are_known() -> None:
    config = {"model_type": "gpt_neox"}
    assert module_problems(config, None, ["all-linear"]) == [
        "all-linear: the model's modules are not known, since the hub cannot be reached; name the modules"
    ]
    assert module_problems(config, None, ["query_key_value"]) == []
    weights = {
        "gpt_neox.layers.0.attention.dense.weight": Weight("BF16", (4, 4)),
        "embed.weight": Weight("BF16", (9, 4)),
    }
    assert linear_modules(config, weights) == ["dense"]


def test_transposed_weights_are_refused(folder: Path) -> None:
    edit(folder, "config.json", model_type="gpt2")
    assert "are stored transposed and cannot be merged" in found(folder, ("c_attn",))


def test_the_weights_that_are_asked_for_are_those_of_a_real_model(tiny_model: Path) -> None:
    """Names and shapes as transformers writes them, tied and not."""
    config = json.loads((tiny_model / "config.json").read_text())
    sizes = Architecture.of(config)
    assert sizes
    written = local_weights(tiny_model)
    assert {name.removeprefix("model."): one.shape for name, one in written.items()} == sizes.weights


def test_an_embedding_with_more_rows_than_the_tokenizer_has_tokens_is_usual(tiny_model: Path) -> None:
    config = {"model_type": "gpt_neox", "vocab_size": 100_000}
    assert model_problems(config, tiny_model / "tokenizer.json", {"w": Weight("BF16", (2, 2))}) == []


@pytest.fixture(scope="module")
def hub(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("hub") / "repository"
    shutil.copytree(tiny_model, folder)
    edit(folder, "config.json", num_hidden_layers=3)
    generation_settings("[]")(folder)
    with running_hub(folder) as (url, fetched):
        yield url
    assert "model.safetensors" not in fetched, "whole weights were downloaded to look at their header"


def test_a_hub_model_is_checked_by_the_headers_of_its_weights(hub: str, tmp_path: Path) -> None:
    """In a process of its own: huggingface_hub reads its address when it is imported."""
    program = (
        "from cefr_batch.models.resolve import check_model; from cefr_batch.config.schema import ModelSpec\n"
        "spec = ModelSpec(name='org/tiny', revision=None, alias=None, load_in_4bit=True)\n"
        "print(*check_model(spec, ['q_proj']))"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = {**kept, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("model.name: org/tiny lacks the weights layers.2.self_attn.q_proj.weight"), (
        done.stderr
    )
    assert f"model.name: org/tiny {UNREADABLE}" in done.stdout
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_download_that_was_interrupted_is_the_jobs_to_finish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two weight files the hub's cache has one: the hub's headers say what the whole has, and nothing is wrong."""
    whole = local_weights(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "is incomplete" in found(folder)
    monkeypatch.setattr("cefr_batch.models.resolve.downloaded", lambda model, files: folder)
    monkeypatch.setattr("cefr_batch.models.resolve.described_weights", lambda model: whole)
    assert check_model(model("org/model"), MODULES) == []
