"""The micro-batch that a run trains with: the spec's, or a smaller one where the GPU ran out of memory.

What did not fit is kept in the job's folder and in every later checkpoint, so that a run that is resumed anywhere continues
with the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cefr_batch.config.schema import RunSpec
from cefr_batch.errors import CefrBatchError, JobFailed, OutOfMemory
from cefr_batch.planning.plan import MicroBatch
from cefr_batch.records import layout
from cefr_batch.records.checkpoint import Checkpoint
from cefr_batch.records.control import OomEvents
from cefr_batch.records.document import read_file, write_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.training import OomEvent


def known_oom_events(work: WorkDir, resume: Path | None) -> list[OomEvent]:
    """What did not fit so far, by this folder or by the checkpoint to resume from, whichever knows more."""
    here = read_file(OomEvents, work.oom_events).events if work.oom_events.is_file() else []
    there = read_file(Checkpoint, resume / layout.CHECKPOINT_MANIFEST).out_of_memory if resume else []
    return max(here, there, key=len)


def batch_of(spec: RunSpec, oom_events: Sequence[OomEvent]) -> MicroBatch:
    """The micro-batch of each process; the examples of a step stay the same whatever did not fit."""
    batch = MicroBatch.of(spec.training, spec.resources.gpus)
    for _ in oom_events:
        batch = batch.halved() or batch
    return batch


def out_of_memory(spec: RunSpec, work: WorkDir, oom_events: Sequence[OomEvent], step: int) -> CefrBatchError:
    """Record that this step does not fit; the error to raise, ``OutOfMemory`` if a smaller batch can be tried."""
    batch = batch_of(spec, oom_events)
    smaller = batch.halved()
    if smaller is None:
        return JobFailed(
            f"step {step} does not fit into the GPU's memory with one example at a time; "
            "set training.gradient_checkpointing=true, a smaller lora.rank, or take a larger GPU"
        )
    write_file(work.oom_events, OomEvents(events=[*oom_events, OomEvent(step=step, batch_size=batch.rows)]))
    return OutOfMemory(
        f"step {step} ran out of memory with {batch.rows} examples at once; training resumes from the last checkpoint with "
        f"{smaller.rows} at once, {smaller.accumulation} times a step (the examples of a step stay the same)"
    )
