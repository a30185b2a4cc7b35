"""RunSpec + plan + model + card → does it fit, how long does it take, what does it cost. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cefr_batch.architecture import Architecture
from cefr_batch.errors import Problem
from cefr_batch.gpus import Gpu
from cefr_batch.levels import RunSpec
from cefr_batch.memory import Batch, Machine, Memory, evaluation_memory, training_memory
from cefr_batch.plan import MicroBatch, Plan

# The share of a card's arithmetic that training reaches: 0.42 in the seed's run on an RTX 4090, 0.31 to 0.52 in published
# runs on an A100 (https://github.com/hiyouga/LLaMA-Factory/wiki/Performance-comparison); see docs/gpu-memory.md.
UTILISATION = 0.4


@dataclass(frozen=True)
class Fit:
    """A run on a card: its memory at the peak of one process, and what it takes."""

    gpu: Gpu
    batch: MicroBatch
    training: Memory
    evaluation: int  # bytes at the peak of the evaluations before and after training
    largest_batch: MicroBatch | None  # that fits; None: not even one example at a time
    flops: float  # of training
    seconds: float  # of training, about
    cost: float | None  # of training, about; in the currency of the price
    remedy: str  # the setting that makes it fit; empty where nothing needs to be changed, or nothing helps

    @property
    def needed(self) -> int:
        return max(self.training.total, self.evaluation)

    def problems(self) -> list[Problem]:
        """Why it would run out of memory, and what to set instead."""
        if self.needed <= self.gpu.memory:
            return []
        stage = "training" if self.training.total >= self.evaluation else "evaluation"
        needs = f"{stage} needs about {gigabytes(self.needed)} and the {self.gpu.name} has {gigabytes(self.gpu.memory)}"
        return [Problem("memory", f"{needs}; {self.remedy or 'no setting makes it fit: take a smaller model'}")]


def make_fit(spec: RunSpec, plan: Plan, model: Architecture, gpu: Gpu, price_per_hour: float | None = None) -> Fit:
    """``price_per_hour``: of one such GPU."""
    length = min(plan.train.longest_tokens, plan.max_length)
    batch = MicroBatch.of(spec.training, spec.resources.gpus)
    flops = training_flops(model, spec, plan)
    seconds = flops / (gpu.tflops * 1e12 * UTILISATION * spec.resources.gpus)
    evaluation = _evaluation(model, spec, plan)
    training = training_memory(model, spec, Batch(batch.rows, length), _machine(spec))
    fits = max(training.total, evaluation) <= gpu.memory
    return Fit(
        gpu=gpu,
        batch=batch,
        training=training,
        evaluation=evaluation,
        largest_batch=_largest(model, spec, length, gpu),
        flops=flops,
        seconds=seconds,
        cost=None if price_per_hour is None else price_per_hour * spec.resources.gpus * seconds / 3600,
        remedy="" if fits else _remedy(model, spec, plan, gpu),
    )


def _machine(spec: RunSpec) -> Machine:
    return Machine(cuda=True, bf16=spec.training.precision != "fp32")


def training_flops(model: Architecture, spec: RunSpec, plan: Plan) -> float:
    """Floating-point operations of training: for each token 2 a weight forward, 2 backward for the gradient of its input,
    and 2 more for its own where it is trained, here the adapter's (Kaplan et al. 2020, arXiv:2001.08361, section 2.1;
    frozen weights have none). Attention adds 4 a layer, token before and width (causal: half of the length on average);
    gradient checkpointing repeats the forward pass. Padding is counted as if batches were half as uneven as they may be.
    """
    lora = model.lora_parameters(spec.lora.rank, spec.lora.target_modules)
    weights = model.linear_parameters + model.vocabulary * model.hidden
    average = plan.train.kept_tokens / max(plan.train.examples, 1)
    longest = min(plan.train.longest_tokens, plan.max_length)
    attention = 4 * model.layers * model.query * average / 2
    forward = 2 * (weights + lora) + attention
    backward = 2 * (weights + 2 * lora) + 2 * attention
    again = forward if spec.training.gradient_checkpointing else 0
    padding = 1 + (longest / average - 1) / 2 if average else 1
    return (forward + backward + again) * plan.total_tokens * padding


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _evaluation(model: Architecture, spec: RunSpec, plan: Plan) -> int:
    rows = min(spec.evaluation.batch_size, plan.evaluated_examples)
    length = min(plan.eval.longest_tokens, plan.max_length)
    return evaluation_memory(model, spec, Batch(rows, length), _machine(spec))


def _largest(model: Architecture, spec: RunSpec, length: int, gpu: Gpu) -> MicroBatch | None:
    """The largest micro-batch for the same effective batch whose training fits."""
    share = spec.training.batch_size * spec.training.gradient_accumulation_steps // spec.resources.gpus
    for rows in range(share, 0, -1):
        if share % rows == 0 and training_memory(model, spec, Batch(rows, length), _machine(spec)).total <= gpu.memory:
            return MicroBatch(rows, share // rows)
    return None


def _remedy(model: Architecture, spec: RunSpec, plan: Plan, gpu: Gpu) -> str:
    """The least change that makes it fit, as settings to give; empty if none does."""
    words = []
    if _evaluation(model, spec, plan) > gpu.memory:
        spec = _with(spec, "evaluation", "batch_size", 1)
        words = ["evaluation.batch_size=1"]
    if _evaluation(model, spec, plan) > gpu.memory:
        return ""
    length = min(plan.train.longest_tokens, plan.max_length)
    for changed, settings in _savings(spec):
        batch = _largest(model, changed, length, gpu)
        if batch:
            return f"it fits with {', '.join([*words, *settings, *_batch_words(spec, batch)])}"
    return ""


def _batch_words(spec: RunSpec, batch: MicroBatch) -> list[str]:
    """The settings for a smaller micro-batch; none where the given one is small enough."""
    given = MicroBatch.of(spec.training, spec.resources.gpus)
    if batch.rows >= given.rows:
        return []
    accumulation = batch.accumulation * spec.resources.gpus
    return [f"training.batch_size={batch.rows}", f"training.gradient_accumulation_steps={accumulation}"]


def _savings(spec: RunSpec) -> Iterator[tuple[RunSpec, list[str]]]:
    """What makes training smaller besides its batches, as little of it as possible first."""
    yield spec, []
    if not spec.model.load_in_4bit:
        yield _with(spec, "model", "load_in_4bit", True), ["model.load_in_4bit=true"]
    if not spec.training.gradient_checkpointing:
        fewer = _with(spec, "training", "gradient_checkpointing", True)
        yield fewer, ["training.gradient_checkpointing=true"]
        if not spec.model.load_in_4bit:
            both = ["model.load_in_4bit=true", "training.gradient_checkpointing=true"]
            yield _with(fewer, "model", "load_in_4bit", True), both


def _with(spec: RunSpec, part: str, key: str, value: Any) -> RunSpec:
    return spec.model_copy(update={part: getattr(spec, part).model_copy(update={key: value})})
