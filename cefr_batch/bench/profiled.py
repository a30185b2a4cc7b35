"""``python -m cefr_batch.bench.profiled RUN_FOLDER PARENT_PID``: the training stage of a job, its last steps under torch's
profiler. What they show is written to ``profile.json`` in the run's folder."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cefr_batch.files import write_json
from cefr_batch.job.context import StageContext
from cefr_batch.job.stages import run_stage
from cefr_batch.records.layout import WorkDir
from cefr_batch.training.process import start_process, write_error

PROFILED_STEPS = 3  # after one that warms the profiler up
PROFILE = "profile.json"
_TOP = 10
_STEP = "ProfilerStep"
# What a kernel (on a CPU an operator) does, by its name: the first that fits.
_KINDS = {
    "attention": r"flash|fmha|attention|sdpa",
    "unpacking 4-bit weights": r"dequant|4bit",
    "products of matrices": r"gemm|cutlass|xmma|cublas|nvjet|wgmma|splitk|aten::(add|b|)mm\b",
    "optimizer": r"optimizer|adam|multi_tensor",
    "copies": r"memcpy|memset|copy",
    "Triton": r"^triton|^_",  # Unsloth's, and what torch compiles
}


@dataclass(frozen=True)
class StepProfile:
    """Where the time of a step goes. ``step_seconds``: with the profiler, so a little longer; ``busy``: the share of it in
    which the device computes; ``kinds`` and ``top``: the shares of that time, by kind and of the longest kernels."""

    step_seconds: float
    busy: float
    kinds: dict[str, float]
    top: dict[str, float]


def kind_of(kernel: str) -> str:
    """What a kernel of this name does."""
    name = kernel.lower()
    return next((kind for kind, pattern in _KINDS.items() if re.search(pattern.lower(), name)), "all else")


def summed(step_seconds: Sequence[float], kernels: Iterable[tuple[str, float]]) -> StepProfile:
    """``kernels``: names and seconds, of all these steps."""
    by_name: dict[str, float] = defaultdict(float)
    by_kind: dict[str, float] = defaultdict(float)
    for name, seconds in kernels:
        by_name[name[:100]] += seconds
        by_kind[kind_of(name)] += seconds
    total, whole = sum(by_name.values()), sum(step_seconds)
    return StepProfile(
        step_seconds=whole / len(step_seconds),
        busy=min(total / whole, 1.0),
        kinds=_shares(by_kind, total),
        top=_shares(by_name, total),
    )


def _shares(seconds: Mapping[str, float], total: float) -> dict[str, float]:
    """The largest ones first, rounded to a thousandth."""
    longest = sorted(seconds, key=lambda name: seconds[name], reverse=True)[:_TOP]
    return {name: round(seconds[name] / (total or 1.0), 3) for name in longest}


def _read(profiler: Any) -> StepProfile:
    import torch
    from torch.autograd import DeviceType

    events = profiler.events()
    steps = [e.time_range.elapsed_us() / 1e6 for e in events if _STEP in e.name and e.device_type == DeviceType.CPU]
    computed = [e for e in events if not (e.is_user_annotation or _STEP in e.name)]
    if torch.cuda.is_available():
        on_gpu = (e for e in computed if e.device_type == DeviceType.CUDA)
        return summed(steps, ((e.name, e.time_range.elapsed_us() / 1e6) for e in on_gpu))
    return summed(steps, ((e.name, e.self_cpu_time_total / 1e6) for e in computed))


def train_profiled(context: StageContext) -> None:
    """Run and record the stage, and write the profile of its last steps."""
    from torch.optim.optimizer import register_optimizer_step_post_hook
    from torch.profiler import profile, schedule

    found: list[StepProfile] = []
    before = max((context.spec.training.max_steps or 0) - PROFILED_STEPS - 1, 0)
    when = schedule(wait=before, warmup=1, active=PROFILED_STEPS, repeat=1)
    with profile(schedule=when, on_trace_ready=lambda profiler: found.append(_read(profiler))) as profiler:
        hook = register_optimizer_step_post_hook(lambda *_: profiler.step())
        try:
            run_stage(context, "train")
        finally:
            hook.remove()
    for one in found:
        write_json(context.work.root / PROFILE, asdict(one))


def main(argv: Sequence[str]) -> int:
    """Return the exit code; why the stage failed is in the work folder's error.json, as for a job."""
    folder, parent = argv
    start_process(int(parent))
    context = StageContext(WorkDir(Path(folder)))
    try:
        train_profiled(context)
    except Exception as exc:
        return write_error(context.work, exc)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
