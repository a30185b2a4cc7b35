"""What runs of some levels would do: steps, tokens and leakage; where the GPU is known, memory, time and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from cefr_batch.config.schema import RunSpec
from cefr_batch.config.sweep import sweep
from cefr_batch.data import leakage
from cefr_batch.errors import ModelError, Problem, UsageError
from cefr_batch.models.architecture import FAMILIES
from cefr_batch.models.resolve import architecture, check_model
from cefr_batch.planning.capacity import Fit, estimate_capacity
from cefr_batch.planning.gpus import Gpu, find_gpu
from cefr_batch.planning.plan import Plan
from cefr_batch.records.stages import Leakage
from cefr_batch.runner.findings import Findings
from cefr_batch.runner.prepare import read_runs, read_specs, settle
from cefr_batch.schedulers.base import Scheduler


@dataclass(frozen=True)
class RunPlan:
    """What a run would do. ``varied``: its settings of those for which several values were given, as ``KEY=VALUE``."""

    spec: RunSpec
    plan: Plan
    leakage: Leakage
    fit: Fit | None  # where the GPU is known
    model_problems: Sequence[Problem] = ()
    varied: tuple[str, ...] = ()

    def problems(self) -> list[Problem]:
        """Why it would be refused; empty if it would not."""
        return [*self.model_problems, *self.plan.problems(), *(self.fit.problems() if self.fit else ())]

    def as_json(self) -> dict[str, Any]:
        """One document for ``plan --json``: sizes in bytes and tokens, times in seconds, shares in percent."""
        return {
            "level": self.spec.level.value,
            "run_family": self.spec.run_family,
            "varied": list(self.varied),
            **asdict(self.plan),
            "longest_tokens": self.plan.longest_tokens,
            "leakage": self.leakage.model_dump(),
            "fit": self.fit and _fit_json(self.fit),
            "problems": [str(problem) for problem in self.problems()],
            "warnings": [str(warning) for warning in self.plan.warnings()],
            "spec": self.spec.model_dump(mode="json"),
        }


def plan_runs(
    levels: Sequence[str],
    *,
    profile: str | None,
    overrides: Sequence[str],
    scheduler: Scheduler[Any],
    gpu: str | None,
    price_per_hour: float | None,
) -> list[RunPlan]:
    """A plan for each run that ``submit`` would start, with the backend that it would choose. Reads data, tokenizer and
    model sizes, which may be downloaded; starts nothing.

    ``gpu`` and ``price_per_hour`` (of one GPU) default to the cluster's. Raises ``NotReady`` with the problems of all
    settings, data and models that cannot be read, ``ModelError`` for a model whose memory cannot be estimated.
    """
    scheduler.require_settings()
    name = gpu or scheduler.gpu
    if price_per_hour is not None and name is None:
        raise UsageError("--price-per-hour needs --gpu: how long a run takes depends on the GPU")
    price = scheduler.price_per_hour if price_per_hour is None else price_per_hour
    known = find_gpu(name) if name else None
    findings = Findings()
    runs = read_runs(settle(read_specs(levels, profile, overrides, findings), scheduler), findings)
    findings.raise_if_any()
    seen, check = cache(lambda data: leakage(data.train, data.eval)), cache(check_model)
    varied = _varied(sweep(overrides)) * len(levels)
    return [
        RunPlan(
            one.spec,
            one.plan,
            seen(one.dataset),
            _fit(one.spec, one.plan, known, price) if known else None,
            check(one.spec.model, tuple(one.spec.lora.target_modules)),
            its,
        )
        for one, its in zip(runs, varied, strict=True)
    ]


def _varied(combinations: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Of each combination the overrides that are not the same in all."""
    places = [place for place, same in enumerate(zip(*combinations, strict=True)) if len(set(same)) > 1]
    return [tuple(one[place] for place in places) for one in combinations]


def _fit(spec: RunSpec, plan: Plan, gpu: Gpu, price_per_hour: float | None) -> Fit:
    model = architecture(spec.model)
    if model is None:
        known = ", ".join(FAMILIES)
        raise ModelError(
            f"the memory that {spec.model.name} needs is not known: its config.json names none of {known}; omit --gpu"
        )
    return estimate_capacity(spec, plan, model, gpu, price_per_hour)


def _fit_json(fit: Fit) -> dict[str, Any]:
    return {
        "gpu": fit.gpu.key,
        "gpu_memory_bytes": fit.gpu.memory,
        "training_bytes": {**asdict(fit.training), "total": fit.training.total},
        "evaluation_bytes": fit.evaluation,
        "batch": asdict(fit.batch),
        "largest_batch": fit.largest_batch and asdict(fit.largest_batch),
        "flops": fit.flops,
        "utilisation": fit.utilisation,
        "seconds": fit.seconds,
        "seconds_range": list(fit.seconds_range),
        "cost": fit.cost,
        "problems": [str(problem) for problem in fit.problems()],
    }
