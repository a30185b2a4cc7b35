"""Whether a model can be trained, asked before it is loaded: its config.json, tokenizer and weights must fit together.

transformers draws weights that the files lack at random, and an index beyond the embedding ends a job hours later.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cefr_batch.config.schema import ALL_LINEAR
from cefr_batch.files import read_json
from cefr_batch.models.architecture import Architecture
from cefr_batch.models.weights import Weights

_TRAINABLE = ("BF16", "F16", "F32", "F64")
# Their linear modules are transformers' Conv1D, whose weights lie transposed: a merge of ours would be wrong.
_TRANSPOSED = ("gpt2", "imagegpt", "decision_transformer", "openai-gpt", "ctrl")
_SHOWN = 3
GENERATION_CONFIG = "generation_config.json"
# transformers names the modules of such a model otherwise than its files do, and some are of the pictures' part.
_NOT_TEXT_ALONE = (
    "reads pictures or sound besides text, and such a model cannot be merged; choose one for text alone, such as "
    "google/gemma-3-1b-it"
)


def model_problems(config: Mapping[str, Any], tokenizer_json: Path, weights: Weights | None) -> list[str]:
    """What keeps a model from being loaded as it was trained, each with the next step; empty if nothing does.

    ``config``: its config.json; ``tokenizer_json``: beside its other small files; ``weights``: None if they are not known.
    """
    if kind := _unknown_kind(config):
        return [kind]
    if config.get("vision_config") or config.get("audio_config"):
        return [_NOT_TEXT_ALONE]
    if config.get("quantization_config"):
        return ["holds quantized weights; name the model's 16-bit original (4-bit is made while training)"]
    sizes = Architecture.of(config)
    found = [*_lacking(sizes, weights), *_quantized(weights)] if weights else []
    return [*found, *_unknown_tokens(config, tokenizer_json), *_unreadable_ends(tokenizer_json.parent)]


def module_problems(config: Mapping[str, Any], weights: Weights | None, modules: Sequence[str]) -> list[str]:
    """What is wrong with ``lora.target_modules`` for this model; empty if nothing is, or the weights are not known."""
    if config.get("model_type") in _TRANSPOSED:
        kind = config["model_type"]
        return [
            f"the weights of a model of type {kind} are stored transposed and cannot be merged; choose another model"
        ]
    known = linear_modules(config, weights)
    unknown = sorted(set(modules) - set(known))
    if ALL_LINEAR in modules and not known:
        return [f"{ALL_LINEAR}: the model's modules are not known, since the hub cannot be reached; name the modules"]
    if not unknown or not known:
        return []
    return [
        f"{', '.join(unknown)}: no such modules in the model; it has {', '.join(sorted(known))} (set "
        f"lora.target_modules={ALL_LINEAR} for all of them)"
    ]


def linear_modules(config: Mapping[str, Any], weights: Weights | None) -> list[str]:
    """The names of the linear modules inside a model's layers, those of attention first; empty where they are not known.

    Raises ``ValueError``, ``LookupError``, ``TypeError`` or ``ArithmeticError`` for a config.json without sizes.
    """
    sizes = Architecture.of(config)
    return list(sizes.linears) if sizes else sorted(_matrices(weights or {}))


def _matrices(weights: Weights) -> set[str]:
    """The names of the matrices inside a model's layers."""
    paths = [name.split(".") for name, one in weights.items() if name.endswith(".weight") and len(one.shape) == 2]
    return {path[-2] for path in paths if any(part.isdigit() for part in path)}


def _unknown_kind(config: Mapping[str, Any]) -> str | None:
    """Why the installed transformers cannot load the model as a causal language model."""
    kind, known = config.get("model_type"), _causal_models()
    if not isinstance(kind, str):
        return "has a config.json without model_type; download it again"
    if known is None or kind in known:
        return None
    return (
        f"is of type {kind!r}, which the installed transformers cannot load as a language model; choose another model"
    )


@cache
def _causal_models() -> frozenset[str] | None:
    """The types of causal language models that the installed transformers lists; None where it cannot be seen. Read from
    its source, since to import it takes seconds."""
    package = find_spec("transformers")
    for folder in (package.submodule_search_locations or ()) if package else ():
        source = Path(folder) / "models" / "auto" / "modeling_auto.py"
        if source.is_file():
            return _listed(ast.parse(source.read_text(encoding="utf-8")), "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
    return None


def _listed(module: ast.Module, name: str) -> frozenset[str] | None:
    """The keys of the mapping that a module assigns to this name."""
    for statement in module.body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in statement.targets
        ):
            pairs = [node.elts[0] for node in ast.walk(statement.value) if isinstance(node, ast.Tuple) and node.elts]
            return frozenset(key.value for key in pairs if isinstance(key, ast.Constant) and isinstance(key.value, str))
    return None


def _lacking(sizes: Architecture | None, weights: Weights) -> Iterator[str]:
    """Weights that the model must have and has not, or in another shape. Checked for models whose sizes are known."""
    if sizes is None:
        return
    there = {name.removeprefix("model."): one.shape for name, one in weights.items()}
    missing = [name for name in sizes.weights if name not in there]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        yield (
            f"lacks the weights {', '.join(missing[:_SHOWN])}{more}, which its config.json asks for; they would be drawn at "
            "random: download the model again, or correct config.json"
        )
    for name, shape in sizes.weights.items():
        if there.get(name, shape) != shape:
            yield f"has {name} of shape {there[name]}, but its config.json asks for {shape}; download the model again"
            return


def _quantized(weights: Weights) -> Iterator[str]:
    strange = sorted({one.dtype for one in weights.values() if one.dtype not in _TRAINABLE and len(one.shape) >= 2})
    if strange:
        yield f"has weights of type {', '.join(strange)}; name the model's original in 16 or 32 bits"


def _unknown_tokens(config: Mapping[str, Any], tokenizer_json: Path) -> Iterator[str]:
    """Tokens without a row in the embedding."""
    rows = config.get("vocab_size")
    try:
        added = read_json(tokenizer_json)["added_tokens"]
        beyond = [one["content"] for one in added if isinstance(rows, int) and one["id"] >= rows]
    except (OSError, ValueError, LookupError, TypeError):
        return
    if beyond:
        shown = ", ".join(map(repr, beyond[:_SHOWN]))
        yield (
            f"has {rows:,} rows in its embedding, but its tokenizer has more tokens: {shown} have no row; remove them "
            "from the tokenizer, or take the model's own tokenizer"
        )


def _unreadable_ends(folder: Path) -> Iterator[str]:
    """Generation settings that do not say at which tokens a text begins and ends, which is all that is taken of them."""
    file = folder / GENERATION_CONFIG
    if not file.is_file():
        return
    try:
        settings = read_json(file)
        named = [settings.get(f"{which}_token_id") for which in ("bos", "eos")]
    except (OSError, ValueError, AttributeError):
        yield f"has an unreadable {GENERATION_CONFIG}; download it again, or remove it"
        return
    tokens = [token for one in named if one is not None for token in (one if isinstance(one, list) else [one])]
    if not all(type(token) is int for token in tokens):
        yield f"has a {GENERATION_CONFIG} whose bos_token_id or eos_token_id is no token's number; correct or remove it"
