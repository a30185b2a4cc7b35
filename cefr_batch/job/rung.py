"""What a model is worth where its training was paused: the part that computes, in a process of its own.

Evaluated as the stage ``tuned`` evaluates a finished model, so that the figures of trials compare, whether they are paused
or at their end.
"""

from __future__ import annotations

import time

from cefr_batch.job.context import StageContext, within_memory
from cefr_batch.job.evaluations import answered, levels_of
from cefr_batch.records import layout
from cefr_batch.records.checkpoint import Checkpoint
from cefr_batch.records.document import read_file, write_file
from cefr_batch.records.rung import RungRecord

RUNG = "rung"  # the process's name, beside those of the stages


@within_memory("evaluation")
def evaluate_rung(context: StageContext) -> None:
    """Evaluate the best adapter up to the newest checkpoint, and record what it is worth."""
    started = time.monotonic()
    context.progress.begin(RUNG)
    step = context.work.checkpoints()[-1]
    checkpoint = read_file(Checkpoint, context.work.path(layout.checkpoint_name(step)) / layout.CHECKPOINT_MANIFEST)
    best = step if checkpoint.best_step is None else checkpoint.best_step
    context.adapter = context.work.path(layout.checkpoint_name(best))
    losses = context.evaluate(context.tuned_model).losses
    record = RungRecord(step=step, best_step=best, losses=losses, seconds=round(time.monotonic() - started, 3))
    examples = context.evaluated[: context.spec.generation.examples]
    if context.pause and context.pause.levels and examples:
        texts = answered(context, context.tuned_model, examples)
        data = context.dataset
        record = record.model_copy(update={"levels": levels_of(context, texts, data.eval, data.eval_sha256)})
    write_file(context.work.path(layout.rung_name(step)), record)
