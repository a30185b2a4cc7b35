"""Stage ``plots``: the training's curves as figures."""

from __future__ import annotations

from cefr_batch.job.context import StageContext
from cefr_batch.records import layout
from cefr_batch.records.stages import BaselineResult, PlotsResult, StageRecord, TrainResult


def run(context: StageContext) -> PlotsResult:
    """Draw them."""
    from cefr_batch.training.plots import untrained_loss, write_plots

    trained = context.result("train", StageRecord[TrainResult])
    before = context.result("baseline", StageRecord[BaselineResult]).baseline
    untrained = untrained_loss(before, context.spec.training.loss_on)
    files = write_plots(trained.log, trained.best, untrained, context.work.path(layout.PLOTS))
    return PlotsResult(plots=[file.name for file in files])
