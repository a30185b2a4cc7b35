"""The table of stages: what a job does, in order. A new stage is a module of its own here and an entry of this table.

A stage is a function from the job's context to its result, a model of ``records.stages``. The modules are light to import;
what a stage computes with is imported by its function.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from cefr_batch.config.schema import RunSpec
from cefr_batch.job.context import StageContext
from cefr_batch.job.stages import data, evaluate, export, generate, merge, plots, train
from cefr_batch.records import layout
from cefr_batch.records.document import Part, write_file
from cefr_batch.records.exports import ExportResult
from cefr_batch.records.stages import (
    BaselineResult,
    DataResult,
    GenerateResult,
    MergeResult,
    PlotsResult,
    StageRecord,
    TrainResult,
    TunedResult,
)

log = logging.getLogger(__name__)

P = TypeVar("P", bound=Part)
Process = Literal["job", "baseline", "train", "tuned", "export"]


@dataclass(frozen=True)
class Stage(Generic[P]):
    """``process``: stages of one process share what they load; ``job`` is the supervisor's own, for light stages only.
    ``folder``: what the stage leaves in the work folder and the store besides its record. ``wanted``: whether a run with
    these settings has the stage."""

    name: str
    run: Callable[[StageContext], P]
    record: type[StageRecord[P]]
    process: Process
    folder: str | None = None
    wanted: Callable[[RunSpec], bool] = lambda spec: True


# Training has a process of its own: Unsloth patches libraries that the evaluations use unpatched.
STAGES: tuple[Stage[Any], ...] = (
    Stage("data", data.run, StageRecord[DataResult], "job"),
    Stage("baseline", evaluate.baseline, StageRecord[BaselineResult], "baseline"),
    Stage("train", train.run, StageRecord[TrainResult], "train", folder=layout.ADAPTER),
    Stage("tuned", evaluate.tuned, StageRecord[TunedResult], "tuned"),
    Stage("generate", generate.run, StageRecord[GenerateResult], "tuned"),
    Stage("merge", merge.run, StageRecord[MergeResult], "tuned", folder=layout.MERGED),
    Stage("plots", plots.run, StageRecord[PlotsResult], "tuned", folder=layout.PLOTS),
    Stage("export", export.run, StageRecord[ExportResult], "export", folder=layout.EXPORTS, wanted=export.wanted),
)
BY_NAME = {stage.name: stage for stage in STAGES}
PUBLISH = "publish"  # the last step of a job: the supervisor's, and no entry of the table, since it leaves no record


def stages_of(spec: RunSpec) -> list[Stage[Any]]:
    """The stages of a run with these settings, in order."""
    return [stage for stage in STAGES if stage.wanted(spec)]


def run_stage(context: StageContext, name: str) -> None:
    """Run one stage and record it. The record's presence means that the stage is finished."""
    stage = BY_NAME[name]
    log.info("== %s", name)
    started = time.monotonic()
    context.progress.begin(name)
    result = stage.run(context)
    seconds = round(time.monotonic() - started, 3)
    write_file(context.work.path(layout.stage_name(name)), stage.record(stage=name, seconds=seconds, result=result))
    log.info("== %s done in %.1f s", name, seconds)
