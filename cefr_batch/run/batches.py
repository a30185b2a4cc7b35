"""The micro-batch that a run trains with: the spec's, or a smaller one where the GPU ran out of memory.

What did not fit is kept in the job's folder and in every checkpoint after it, so that a run resumed anywhere goes on with
the batches that it had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cefr_batch import layout
from cefr_batch.errors import CefrBatchError, JobFailed, OutOfMemory
from cefr_batch.files import read_json, write_json
from cefr_batch.layout import WorkDir
from cefr_batch.levels import RunSpec
from cefr_batch.plan import MicroBatch


@dataclass(frozen=True)
class TooLarge:
    """A batch that did not fit: the step of it, and its examples on one GPU."""

    step: int
    batch_size: int


def known_too_large(work: WorkDir, resume: Path | None) -> list[TooLarge]:
    """What did not fit so far, by this folder or by the checkpoint to resume from, whichever knows more."""
    here = read_json(work.out_of_memory) if work.out_of_memory.is_file() else []
    there = read_json(resume / layout.CHECKPOINT_MANIFEST).get("out_of_memory", []) if resume else []
    return [TooLarge(**one) for one in max(here, there, key=len)]


def batch_of(spec: RunSpec, too_large: Sequence[TooLarge]) -> MicroBatch:
    """The micro-batch of each process; the examples of a step stay the same whatever did not fit."""
    batch = MicroBatch.of(spec.training, spec.resources.gpus)
    for _ in too_large:
        batch = batch.halved() or batch
    return batch


def out_of_memory(spec: RunSpec, work: WorkDir, too_large: Sequence[TooLarge], step: int) -> CefrBatchError:
    """Remember that this step does not fit; the error to raise, ``OutOfMemory`` if a smaller batch can be tried."""
    batch = batch_of(spec, too_large)
    smaller = batch.halved()
    if smaller is None:
        return JobFailed(
            f"step {step} does not fit into the GPU's memory with one example at a time; "
            "set training.gradient_checkpointing=true, a smaller lora.rank, or take a larger GPU"
        )
    known = [*too_large, TooLarge(step, batch.rows)]
    write_json(work.out_of_memory, [asdict(one) for one in known])
    return OutOfMemory(
        f"step {step} ran out of memory with {batch.rows} examples at once; training goes on from the last checkpoint with "
        f"{smaller.rows} x {smaller.accumulation} (the examples of a step stay the same)"
    )
