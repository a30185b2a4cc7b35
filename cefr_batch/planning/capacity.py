"""RunSpec + plan + model + GPU → does it fit, how long does it take, what does it cost. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cefr_batch.config.schema import RunSpec
from cefr_batch.errors import Problem
from cefr_batch.models.architecture import Architecture
from cefr_batch.planning.gpus import Gpu
from cefr_batch.planning.memory import BatchShape, Memory, TargetDevice, evaluation_memory, training_memory
from cefr_batch.planning.plan import MicroBatch, Plan


@dataclass(frozen=True)
class Utilisation:
    """The share of a GPU's arithmetic that training in 16 bits is assumed to reach, what gradient checkpointing repeats
    counted."""

    typical: float
    least: float
    most: float


# Unsloth: 0.31 to 0.52 in published runs on an A100 (https://github.com/hiyouga/LLaMA-Factory/wiki/Performance-comparison);
# 0.58 in the first report's run on an RTX 4090, which also unpacked 4-bit weights: 0.7 without that. Plain PEFT, which runs
# a kernel for each operation: on an H100, 0.10 with 16 examples at once and 0.17 with 64; a GPU whose memory is faster for
# its arithmetic reaches more. See docs/gpu-memory.md.
UNSLOTH_UTILISATION = Utilisation(0.6, least=0.3, most=0.7)
PEFT_UTILISATION = Utilisation(0.2, least=0.1, most=0.5)
# How much longer training takes where each product has to unpack 4-bit weights first: LoRA against QLoRA of a 7B Llama on
# an RTX 4090, as torchtune publishes them.
FOUR_BIT_TIME = 1.2


@dataclass(frozen=True)
class Fit:
    """A run on a GPU: its memory at the peak of one process, and what it takes."""

    gpu: Gpu
    batch: MicroBatch
    training: Memory
    evaluation: int  # bytes at the peak of the evaluations before and after training
    largest_batch: MicroBatch | None  # that fits; None: not even one example at a time
    flops: float  # of training
    utilisation: float  # the share of the GPU's arithmetic that ``seconds`` assumes
    seconds: float  # of training, about
    seconds_range: tuple[float, float]  # of training, if it reaches the most that is assumed, and the least
    cost: float | None  # of training, about; in the currency of the price
    remedy: str  # the setting that makes it fit; empty where nothing needs to be changed, or nothing helps

    @property
    def needed(self) -> int:
        """Bytes at the peak of the run."""
        return max(self.training.total, self.evaluation)

    def problems(self) -> list[Problem]:
        """Why it would run out of memory, and what to set instead."""
        if self.needed <= self.gpu.memory:
            return []
        stage = "training" if self.training.total >= self.evaluation else "evaluation"
        needs = f"{stage} needs about {gigabytes(self.needed)} and the {self.gpu.name} has {gigabytes(self.gpu.memory)}"
        remedy = self.remedy or "no setting makes it fit; use a smaller model or a larger GPU"
        return [Problem("memory", f"{needs}; {remedy}")]


def estimate_capacity(
    spec: RunSpec, plan: Plan, model: Architecture, gpu: Gpu, price_per_hour: float | None = None
) -> Fit:
    """``price_per_hour``: of one such GPU."""
    length = min(plan.train.longest_tokens, plan.max_length)
    batch = MicroBatch.of(spec.training, spec.resources.gpus)
    flops = training_flops(model, spec, plan)
    at_peak = _seconds_at_peak(flops, spec, gpu)
    share = PEFT_UTILISATION if spec.backend == "peft" else UNSLOTH_UTILISATION
    seconds = at_peak / share.typical
    evaluation = _evaluation(model, spec, plan, gpu)
    training = training_memory(model, spec, BatchShape(batch.rows, length), _device(spec, gpu))
    fits = max(training.total, evaluation) <= gpu.memory
    return Fit(
        gpu=gpu,
        batch=batch,
        training=training,
        evaluation=evaluation,
        largest_batch=_largest(model, spec, length, gpu),
        flops=flops,
        utilisation=share.typical,
        seconds=seconds,
        seconds_range=(at_peak / share.most, at_peak / share.least),
        cost=None if price_per_hour is None else price_per_hour * spec.resources.gpus * seconds / 3600,
        remedy="" if fits else _remedy(model, spec, plan, gpu),
    )


def _seconds_at_peak(flops: float, spec: RunSpec, gpu: Gpu) -> float:
    """What training would take if the GPUs multiplied all the time."""
    unpacking = FOUR_BIT_TIME if spec.model.load_in_4bit else 1
    return flops * unpacking / (gpu.tflops * 1e12 * spec.resources.gpus)


def _device(spec: RunSpec, gpu: Gpu) -> TargetDevice:
    return TargetDevice(cuda=True, bf16=gpu.bf16 and spec.training.precision != "fp32")


def training_flops(model: Architecture, spec: RunSpec, plan: Plan) -> float:
    """Floating-point operations of training: for each token 2 a weight forward, 2 backward for the gradient of its input,
    and 2 more for its own where it is trained, here the adapter's (Kaplan et al. 2020, arXiv:2001.08361, section 2.1;
    frozen weights have none). Attention adds 4 a layer, token before and width (causal: half of the length on average);
    gradient checkpointing repeats the layers' forward pass, not the output matrix's. Padding is counted as if batches
    were half as uneven as they may be.
    """
    lora = model.lora_parameters(spec.lora.rank, spec.lora.target_modules)
    output = model.vocabulary * model.hidden
    average = plan.train.kept_tokens / max(plan.train.examples, 1)
    longest = min(plan.train.longest_tokens, plan.max_length)
    attention = 4 * model.layers * model.query * average / 2
    layers = 2 * (model.linear_parameters + lora) + attention
    backward = 2 * (model.linear_parameters + output + 2 * lora) + 2 * attention
    again = layers if spec.training.gradient_checkpointing else 0
    padding = 1 + (longest / average - 1) / 2 if average else 1
    return (layers + 2 * output + backward + again) * plan.total_tokens * padding


def gigabytes(size: float) -> str:
    """A number of bytes in 10⁹ bytes, for messages."""
    return f"{size / 1e9:.1f} GB"


def _evaluation(model: Architecture, spec: RunSpec, plan: Plan, gpu: Gpu) -> int:
    rows = min(spec.evaluation.batch_size, plan.evaluated_examples)
    length = min(plan.eval.longest_tokens, plan.max_length)
    return evaluation_memory(model, spec, BatchShape(rows, length), _device(spec, gpu))


def _largest(model: Architecture, spec: RunSpec, length: int, gpu: Gpu) -> MicroBatch | None:
    """The largest micro-batch for the same effective batch whose training fits."""
    share = spec.training.batch_size * spec.training.gradient_accumulation_steps // spec.resources.gpus
    for rows in range(share, 0, -1):
        if (
            share % rows == 0
            and training_memory(model, spec, BatchShape(rows, length), _device(spec, gpu)).total <= gpu.memory
        ):
            return MicroBatch(rows, share // rows)
    return None


def _remedy(model: Architecture, spec: RunSpec, plan: Plan, gpu: Gpu) -> str:
    """The least change that makes it fit, as settings to give; empty if none does."""
    words = []
    if _evaluation(model, spec, plan, gpu) > gpu.memory:
        spec = _with(spec, "evaluation", "batch_size", 1)
        words = ["evaluation.batch_size=1"]
    if _evaluation(model, spec, plan, gpu) > gpu.memory:
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
