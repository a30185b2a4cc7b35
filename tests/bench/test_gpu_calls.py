"""No GPU here: what only a GPU runs is held against the signatures of the libraries that are installed."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from support.runs import ROOT, UNSLOTH_PYTHON, needs_unsloth

# Functions and classes that are called on a GPU alone, or with other arguments there, by the name that our code gives them.
IMPORTED = {
    "BitsAndBytesConfig": "transformers",
    "prepare_model_for_kbit_training": "peft",
    "profile": "torch.profiler",
    "schedule": "torch.profiler",
    "register_optimizer_step_post_hook": "torch.optim.optimizer",
}


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """The calls of torch.cuda's functions and of those in ``IMPORTED``, with their full names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in IMPORTED:
                yield f"{IMPORTED[name]}.{name}", node
            elif name.startswith("torch.cuda."):
                yield name, node


def bind(name: str, call: ast.Call) -> None:
    """Raises ``AttributeError`` or ``TypeError`` if the installed library has no such function, or another one."""
    module, _, attribute = name.rpartition(".")
    function = getattr(import_module(module), attribute)
    keywords: dict[str, Any] = {str(word.arg): None for word in call.keywords}
    inspect.signature(function).bind(*[None] * len(call.args), **keywords)


@pytest.mark.slow
def test_every_call_fits_the_installed_library() -> None:
    found = [one for file in sorted((ROOT / "cefr_batch").rglob("*.py")) for one in calls(file.read_text("utf-8"))]
    for name, call in found:
        bind(name, call)
    names = {name for name, _ in found}
    assert {f"{module}.{name}" for name, module in IMPORTED.items()} <= names
    assert {"torch.cuda.is_available", "torch.cuda.synchronize", "torch.cuda.get_device_properties"} <= names
    assert "torch.cuda.max_memory_reserved" in names


@pytest.mark.parametrize(
    "wrong", ["torch.cuda.synchronise()", "torch.cuda.synchronize(stream=1)", "schedule(waiting=1, warmup=1, active=1)"]
)
def test_a_wrong_call_is_found(wrong: str) -> None:
    ((name, call),) = calls(wrong)
    with pytest.raises((AttributeError, TypeError)):
        bind(name, call)


@pytest.mark.e2e  # `make e2e` has the environment of Unsloth
def test_the_8_bit_optimizer_is_one_that_transformers_and_bitsandbytes_have() -> None:
    """Their sources are asked: bitsandbytes is installed beside Unsloth alone."""
    from transformers.trainer_optimizer import _get_bitsandbytes_optimizer
    from transformers.training_args import OptimizerNames

    assert OptimizerNames("adamw_8bit").value == "adamw_8bit"
    needs_unsloth()
    (file,) = UNSLOTH_PYTHON.parents[1].glob("lib/python*/site-packages/bitsandbytes/optim/adamw.py")
    (owner,) = [n for n in ast.walk(ast.parse(file.read_text("utf-8"))) if getattr(n, "name", "") == "AdamW"]
    assert isinstance(owner, ast.ClassDef)
    (made,) = [n for n in owner.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    accepted = {one.arg for one in made.args.args}
    assert "optim_bits" in inspect.getsource(_get_bitsandbytes_optimizer)
    assert {"optim_bits", "is_paged", "lr", "betas", "eps", "weight_decay"} <= accepted
