"""What is measured: each case is a run, or its training alone, with some settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cefr_batch.errors import UsageError

SMALL, LARGE = (
    "small",
    "large",
)  # models: SmolLM2-135M, or random weights of its shape; random weights of Llama-3.2-1B's shape
REFERENCE = "small-job"  # the undisturbed run with which others are compared


@dataclass(frozen=True)
class BenchCase:
    """``way``: a whole job, a job that is killed in training and resumed, or the training stage alone with its last steps
    profiled. ``needs``: what a machine may lack. ``too_large``: the batch is chosen so that it cannot fit on the GPU;
    ``same_as``: the case that has the same settings, whose weights and losses should be the same."""

    name: str
    way: Literal["job", "killed", "training"]
    model: Literal["small", "large"]
    settings: tuple[str, ...]
    needs: Literal["", "a GPU", "two GPUs", "Unsloth on a GPU"] = ""
    too_large: bool = False
    same_as: str = ""


# For all: the level's own recipe (rank 128, 8-bit AdamW, bf16 where the GPU has it), a few steps of it.
COMMON = (
    "reference=null",
    "data.examples=600",
    "training.max_steps=24",
    "training.eval_steps=8",
    "training.logging_steps=1",
    "training.gradient_accumulation_steps=1",
    "evaluation.max_examples=16",
    "generation.examples=2",
    "generation.max_new_tokens=120",
    "generation.baselines=[]",
)
TINY = (
    "training.batch_size=2",
    "lora.rank=4",
    "data.examples=60",
    "evaluation.max_examples=4",
    "generation.max_new_tokens=8",
)

_PEFT, _UNSLOTH, _FOUR_BIT = "backend=peft", "backend=unsloth", "model.load_in_4bit=true"
_BRIEF = ("training.max_steps=4", "training.eval_steps=2", "data.examples=1200")  # as many examples at once as it takes
# In the order of their worth: where time runs out, the last ones are not run.
CASES = (
    BenchCase(REFERENCE, "job", "small", (_PEFT,)),
    BenchCase("large-peft", "training", "large", (_PEFT,)),
    BenchCase("large-unsloth", "training", "large", (_UNSLOTH,), needs="Unsloth on a GPU"),
    BenchCase("large-unsloth-4bit", "training", "large", (_UNSLOTH, _FOUR_BIT), needs="Unsloth on a GPU"),
    BenchCase("large-peft-4bit", "training", "large", (_PEFT, _FOUR_BIT), needs="a GPU"),
    BenchCase("small-again", "training", "small", (_PEFT,), same_as=REFERENCE),
    BenchCase("small-killed-and-resumed", "killed", "small", (_PEFT,), same_as=REFERENCE),
    BenchCase("large-out-of-memory", "job", "large", (_PEFT, *_BRIEF), needs="a GPU", too_large=True),
    BenchCase("small-unsloth-killed-and-resumed", "killed", "small", (_UNSLOTH,), needs="Unsloth on a GPU"),
    BenchCase("small-two-gpus", "job", "small", (_PEFT, "resources.gpus=2"), needs="two GPUs", same_as=REFERENCE),
)


def chosen(names: Sequence[str]) -> list[BenchCase]:
    """The cases of these names, or all. Raises ``UsageError`` for a name that none has."""
    known = {case.name: case for case in CASES}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"there is no case {', '.join(unknown)}; choose from {', '.join(known)}")
    return [case for case in CASES if not names or case.name in names]
