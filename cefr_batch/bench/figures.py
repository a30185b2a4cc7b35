"""What a case took, from what its run left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

from cefr_batch.bench.machine import BenchMachine
from cefr_batch.bench.profiled import StepProfile
from cefr_batch.config.schema import RunSpec
from cefr_batch.data import TokenCounter, load_dataset
from cefr_batch.errors import ModelError
from cefr_batch.models.architecture import Architecture
from cefr_batch.models.resolve import architecture, tokenizer_file
from cefr_batch.planning.capacity import training_flops
from cefr_batch.planning.memory import CUDA_CONTEXT, BatchShape, TargetDevice, training_memory
from cefr_batch.planning.plan import MicroBatch, Plan, make_plan
from cefr_batch.records.stages import TrainResult
from cefr_batch.records.training import LogEntry

_LARGEST_BATCH = 1024


@dataclass(frozen=True)
class Outcome:
    """What a run left. ``tensorboard``: the folder of its curves; ``stage_seconds``: of a whole job."""

    train: TrainResult
    adapter_sha256: str
    tensorboard: Path
    stage_seconds: dict[str, float] = field(default_factory=dict)
    repeated_steps: int = 0
    profile: StepProfile | None = None


@dataclass(frozen=True)
class RunComparison:
    """Two runs of the same settings. ``difference``: the largest one between their losses, in nats a token."""

    other: str
    same_adapter: bool
    difference: float


@dataclass(frozen=True)
class CaseFigures:
    """``step_seconds``: the median; ``share``: of the measured rate of products of matrices, by the operations that ``plan``
    counts. Memory in 10⁹ bytes, without CUDA's context; None on a CPU. ``training_seconds`` has evaluations and
    checkpoints in it."""

    batch: str
    step_seconds: float
    tokens_per_second: float
    share: float
    training_seconds: float
    peak_memory_gb: float | None
    planned_memory_gb: float | None
    out_of_memory: list[int]  # examples at once that did not fit
    stage_seconds: dict[str, float]
    repeated_steps: int
    comparison: RunComparison | None
    profile: StepProfile | None


def figures(spec: RunSpec, machine: BenchMachine, found: Outcome, reference: tuple[str, Outcome] | None) -> CaseFigures:
    """``reference``: the name of the case to compare with, and what it left."""
    plan, train = _plan(spec), found.train.train
    batch = MicroBatch(train.batch_size or 1, train.gradient_accumulation_steps or 1)
    step = step_seconds(found.tensorboard)
    tokens = plan.total_tokens / plan.steps
    flops = training_flops(_sizes(spec), spec, plan) / plan.steps
    planned = planned_memory(spec, machine, plan, batch.rows) - CUDA_CONTEXT
    return CaseFigures(
        batch=f"{batch.rows} x {batch.accumulation}",
        step_seconds=step,
        tokens_per_second=tokens / step,
        share=flops / step / machine.flops,
        training_seconds=train.duration_seconds,
        peak_memory_gb=found.train.peak_gpu_memory_gb,
        planned_memory_gb=round(planned / 1e9, 2) if machine.gpus else None,
        out_of_memory=[event.batch_size for event in train.out_of_memory],
        stage_seconds=found.stage_seconds,
        repeated_steps=found.repeated_steps,
        comparison=compared(found, *reference) if reference else None,
        profile=found.profile,
    )


def step_seconds(tensorboard: Path) -> float:
    """The median time from one step's loss to the next one's, by the clock of the run's curves."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    losses = EventAccumulator(str(tensorboard)).Reload().Scalars("train/loss")
    return float(median(b.wall_time - a.wall_time for a, b in pairwise(losses) if b.step == a.step + 1))


def compared(found: Outcome, name: str, other: Outcome) -> RunComparison:
    """Two runs of the same settings beside each other."""
    pairs = zip(_losses(found.train.log), _losses(other.train.log), strict=True)
    difference = max(abs(a - b) for a, b in pairs)
    return RunComparison(name, found.adapter_sha256 == other.adapter_sha256, difference)


def _losses(log: Sequence[LogEntry]) -> list[float]:
    return [loss for entry in log for loss in (entry.loss, entry.eval_loss) if loss is not None]


def batch_too_large(spec: RunSpec, machine: BenchMachine) -> int:
    """The smallest power of two whose examples, at once, need 1.25 times the GPU's memory."""
    plan, rows = _plan(spec), 1
    while rows < _LARGEST_BATCH and planned_memory(spec, machine, plan, rows) < 1.25 * machine.memory:
        rows *= 2
    return rows


def planned_memory(spec: RunSpec, machine: BenchMachine, plan: Plan, rows: int) -> int:
    """Bytes that ``plan`` expects of training with so many examples at once."""
    shape = BatchShape(rows, min(plan.train.longest_tokens, plan.max_length))
    return training_memory(_sizes(spec), spec, shape, TargetDevice(cuda=machine.gpus > 0, bf16=machine.bf16)).total


def _sizes(spec: RunSpec) -> Architecture:
    if (found := architecture(spec.model)) is None:
        raise ModelError(f"the sizes of {spec.model.name} are not known")
    return found


def _plan(spec: RunSpec) -> Plan:
    counter = TokenCounter(tokenizer_file(spec.model), spec.model.prompt)
    return make_plan(spec, load_dataset(spec.data, spec.level), counter)
