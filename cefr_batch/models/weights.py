"""The weights of a model as their files describe them: names, types and shapes, from the headers of safetensors files.

Light: reads some kilobytes of each file, of a local folder or of the hub; never loads a weight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cefr_batch.errors import ModelError
from cefr_batch.files import read_json

if TYPE_CHECKING:
    from huggingface_hub.utils._safetensors import SafetensorsFileMetadata, SafetensorsRepoMetadata

SINGLE = "model.safetensors"  # transformers looks for this file, or for the index of several
INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_LFS_POINTER = b"version https://git-lfs"
_HEADER_SIZE = 8  # bytes before the header that say how long it is


@dataclass(frozen=True)
class Weight:
    """A tensor of a safetensors file: its type as that format names it (BF16, F32, U8 …), and its shape."""

    dtype: str
    shape: tuple[int, ...]


Weights = Mapping[str, Weight]  # by the tensor's name


def local_weights(folder: Path) -> Weights:
    """The weights that transformers would load from a folder.

    Raises ``ModelError`` if there are none, or a file is missing, cut off or a Git LFS pointer.
    """
    found: dict[str, Weight] = {}
    for name in weight_files(folder):
        found |= _described(_header(folder / name))
    return found


def hub_weights(metadata: SafetensorsRepoMetadata) -> Weights:
    """The weights of a repository of the hub, whose headers ``huggingface_hub.get_safetensors_metadata`` fetched."""
    found: dict[str, Weight] = {}
    for file in metadata.files_metadata.values():
        found |= _described(file)
    return found


def _described(file: SafetensorsFileMetadata) -> dict[str, Weight]:
    return {name: Weight(one.dtype, tuple(one.shape)) for name, one in file.tensors.items()}


def weight_files(folder: Path) -> list[str]:
    """The names of the files with a model's weights, sorted. Raises ``ModelError`` if there are none or one is missing."""
    if (folder / SINGLE).is_file():
        return [SINGLE]
    if (folder / INDEX).is_file():
        return _indexed(folder)
    raise ModelError(f"model {folder} has no {SINGLE}{_instead(folder)}")


def _instead(folder: Path) -> str:
    """What the folder has instead of weights that can be loaded, and what to do."""
    if (folder / "adapter_config.json").is_file():
        return " but is a LoRA adapter; name the folder of the merged model, or use model.adapter"
    parts = sorted(file.name for file in folder.glob("*.safetensors"))
    if parts:
        return f" and no {INDEX} that lists its parts (found {parts[0]}); download the folder again, whole"
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        return f" (only {pickles[0]}, a pickle, which can run code when it is loaded); convert it to safetensors first"
    return "; download its weights, or name another folder"


def _indexed(folder: Path) -> list[str]:
    """The files that the index names, all of which must be there."""
    try:
        names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
        wrong = [name for name in names if not re.fullmatch(r"[\w.-]+\.safetensors", name)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as exc:
        raise ModelError(f"model {folder} has an unreadable {INDEX}; download it again") from exc
    if wrong or not names:
        raise ModelError(f"model {folder}: {INDEX} names no weight files of this folder; download it again")
    lost = [name for name in names if not (folder / name).is_file()]
    if lost:
        raise ModelError(
            f"model {folder} is incomplete: {lost[0]} is missing ({len(lost)} of {len(names)} weight files)"
        )
    return names


def _header(path: Path) -> SafetensorsFileMetadata:
    from huggingface_hub import parse_local_safetensors_file_metadata
    from huggingface_hub.errors import SafetensorsParsingError

    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
        if start == _LFS_POINTER:
            raise ModelError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` in its folder")
        header = parse_local_safetensors_file_metadata(path)
    except (OSError, SafetensorsParsingError, ValueError, LookupError, TypeError, AttributeError) as exc:
        raise ModelError(f"{path} is not a safetensors file that can be read; download it again") from exc
    data = max((one.data_offsets[1] for one in header.tensors.values()), default=0)
    expected = _HEADER_SIZE + int.from_bytes(start[:_HEADER_SIZE], "little") + data
    if path.stat().st_size < expected:
        raise ModelError(f"{path} is cut off at {path.stat().st_size:,} of {expected:,} bytes; download it again")
    return header
