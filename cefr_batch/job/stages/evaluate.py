"""Stages ``baseline`` and ``tuned``: the losses before and after training."""

from __future__ import annotations

from cefr_batch.files import sha256_file
from cefr_batch.job.context import StageContext, within_memory
from cefr_batch.records import layout
from cefr_batch.records.stages import BaselineResult, TunedResult


@within_memory("evaluation")
def baseline(context: StageContext) -> BaselineResult:
    """Evaluate the pretrained model."""
    found = context.evaluate(context.base_model)
    return BaselineResult(baseline=found.losses, examples=found.examples)


@within_memory("evaluation")
def tuned(context: StageContext) -> TunedResult:
    """Evaluate the model with its adapter."""
    found = context.evaluate(context.tuned_model)
    sha256 = sha256_file(context.work.path(layout.ADAPTER_WEIGHTS))
    return TunedResult(tuned=found.losses, examples=found.examples, adapter_sha256=sha256)
