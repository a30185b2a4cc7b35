"""``cefr-batch plan``: what a run would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from cefr_batch.cli.notice import notice_if_slow
from cefr_batch.cli.options import cluster_option, echo_json, json_option, spec_options
from cefr_batch.cli.show import columns
from cefr_batch.errors import DataError, ModelError, Problem, SpecError, UsageError
from cefr_batch.launch import Launcher

if TYPE_CHECKING:
    from cefr_batch.data import Leakage
    from cefr_batch.fit import Fit
    from cefr_batch.gpus import Gpu
    from cefr_batch.levels import RunSpec
    from cefr_batch.plan import Plan

_SHOWN = 12  # evaluations in a column


@dataclass(frozen=True)
class Planned:
    spec: RunSpec
    plan: Plan
    leakage: Leakage
    fit: Fit | None  # where a GPU was asked for

    def problems(self) -> list[Problem]:
        return [*self.plan.problems(), *(self.fit.problems() if self.fit else ())]


@click.command("plan", short_help="Show what a run would do.")
@spec_options
@cluster_option
@click.option("--gpu", metavar="NAME", help="Memory and time on this card: rtx4090, l4, … Default: the cluster's.")
@click.option(
    "--price-per-hour", type=click.FloatRange(min=0), metavar="PRICE", help="Of one such GPU. Default: the cluster's."
)
@json_option
def command(
    levels: Sequence[str],
    profile: str | None,
    overrides: Sequence[str],
    launcher: Launcher[Any],
    gpu: str | None,
    price_per_hour: float | None,
    as_json: bool,
) -> None:
    """What a run of each level would do: examples, steps, evaluations, tokens; where the GPU is known, memory and time.

    Reads the data and the model's tokenizer and sizes, and starts nothing. Exits with 1 if the run would be refused.
    """
    from cefr_batch.gpus import find_gpu

    gpu = gpu or launcher.gpu
    if price_per_hour is not None and gpu is None:
        raise UsageError("--price-per-hour needs --gpu: how long a run takes depends on the card")
    price = launcher.price_per_hour if price_per_hour is None else price_per_hour
    planned = _planned(_specs(levels, profile, overrides, launcher), find_gpu(gpu) if gpu else None, price)
    if as_json:
        echo_json({"plans": [_as_json(one) for one in planned]})
    else:
        click.echo("\n".join(_table(planned)))
    problems = [Problem(f"level {one.spec.level}: {p.where}", p.what) for one in planned for p in one.problems()]
    if problems:
        raise DataError(problems)


def _specs(
    levels: Sequence[str], profile: str | None, overrides: Sequence[str], launcher: Launcher[Any]
) -> list[RunSpec]:
    """A spec for each level, with the backend that ``submit`` would settle on. Raises one error for all of them."""
    from cefr_batch.spec import load_spec

    specs: list[RunSpec] = []
    problems: list[Problem] = []
    for level in levels:
        try:
            specs.append(load_spec(level, profile=profile, overrides=overrides))
        except SpecError as exc:
            problems += exc.problems
    if problems:
        raise SpecError(dict.fromkeys(problems))
    default = next(iter(launcher.backends()), "peft")
    return [spec.with_backend(default) if spec.backend == "auto" else spec for spec in specs]


def _planned(specs: Sequence[RunSpec], gpu: Gpu | None, price_per_hour: float | None) -> list[Planned]:
    """A plan for each spec. Raises one error with the problems of all data."""
    from cefr_batch.data import TokenCounter, leakage, load_dataset
    from cefr_batch.plan import make_plan
    from cefr_batch.pretrained import tokenizer_file

    problems: list[Problem] = []
    datasets = []
    for spec in specs:
        try:
            datasets.append(load_dataset(spec.data, spec.level))
        except DataError as exc:
            problems += exc.problems
    if problems:
        raise DataError(dict.fromkeys(problems))
    with notice_if_slow():
        counters = {model: TokenCounter(tokenizer_file(model)) for model in dict.fromkeys(spec.model for spec in specs)}
    planned = []
    for spec, data in zip(specs, datasets, strict=True):
        plan = make_plan(spec, data, counters[spec.model])
        fit = _fit(spec, plan, gpu, price_per_hour) if gpu else None
        planned.append(Planned(spec, plan, leakage(data.train, data.eval), fit))
    return planned


def _fit(spec: RunSpec, plan: Plan, gpu: Gpu, price_per_hour: float | None) -> Fit:
    from cefr_batch.architecture import LLAMA_LIKE
    from cefr_batch.fit import make_fit
    from cefr_batch.pretrained import architecture

    model = architecture(spec.model)
    if model is None:
        known = ", ".join(LLAMA_LIKE)
        raise ModelError(
            f"what {spec.model.name} needs is not known: its config.json names none of {known}; leave --gpu out"
        )
    return make_fit(spec, plan, model, gpu, price_per_hour)


def _as_json(planned: Planned) -> dict[str, Any]:
    return {
        "level": planned.spec.level.value,
        "run_family": planned.spec.run_family,
        **asdict(planned.plan),
        "longest_tokens": planned.plan.longest_tokens,
        "leakage": asdict(planned.leakage),
        "fit": planned.fit and _fit_json(planned.fit),
        "problems": [str(problem) for problem in planned.problems()],
        "spec": planned.spec.model_dump(mode="json"),
    }


def _fit_json(fit: Fit) -> dict[str, Any]:
    return {
        "gpu": fit.gpu.key,
        "gpu_memory_bytes": fit.gpu.memory,
        "training_bytes": {**asdict(fit.training), "total": fit.training.total},
        "evaluation_bytes": fit.evaluation,
        "batch": asdict(fit.batch),
        "largest_batch": fit.largest_batch and asdict(fit.largest_batch),
        "flops": fit.flops,
        "seconds": fit.seconds,
        "cost": fit.cost,
        "problems": [str(problem) for problem in fit.problems()],
    }


def _table(planned: Sequence[Planned]) -> list[str]:
    """A column per level."""
    sides = [_column(one) for one in planned]
    rows: list[Sequence[str]] = []
    for cells in zip(*(side.items() for side in sides), strict=True):
        lines = [value.split("\n") for _, value in cells]
        for number in range(max(map(len, lines))):
            name = cells[0][0] if number == 0 else ""
            rows.append((name, *(line[number] if number < len(line) else "" for line in lines)))
    return columns(rows)


def _column(planned: Planned) -> dict[str, str]:
    spec, plan = planned.spec, planned.plan
    training, data = spec.training, spec.data
    return {
        "Level": spec.level.value,
        "Model": spec.model.name,
        "Backend": spec.backend,
        "Data": f"{data.source}\nsplit by {data.split_by}" if data.source else f"{data.train}\n{data.eval}",
        "Training examples": f"{plan.train.examples:,}",
        "Evaluation examples": f"{plan.eval.examples:,}" + _only(plan.evaluated_examples, plan.eval.examples),
        "Sentences seen in training": f"{planned.leakage.sentences_percent:.1f} % of evaluation's",
        "Longest example": f"{plan.longest_tokens} of {plan.max_length} tokens",
        "Truncated": f"{plan.train.truncated:,} training, {plan.eval.truncated:,} eval",
        "Batch": f"{training.batch_size} x {training.gradient_accumulation_steps} = {plan.effective_batch} examples",
        "Steps": f"{plan.steps:,} ({plan.steps_per_epoch:,} an epoch)",
        "Warm-up": f"{plan.warmup_steps:,} steps",
        "Epochs": f"{plan.epochs:.4g}",
        "Tokens an epoch": f"{plan.train.kept_tokens:,}",
        "Tokens in all": f"{plan.total_tokens:,}",
        "Evaluations": _evaluations(plan),
        "Checkpoints": _listed([f"step {step}" for step in plan.checkpoints]),
        **(_fit_rows(planned.fit) if planned.fit else {}),
    }


def _fit_rows(fit: Fit) -> dict[str, str]:
    from cefr_batch.fit import gigabytes
    from cefr_batch.report.text import short_duration

    parts = (f"{size / 1e9:5.1f} {name}" for name, size in asdict(fit.training).items())
    largest = fit.largest_batch
    rows = {
        "GPU": f"{fit.gpu.name}, {gigabytes(fit.gpu.memory)}",
        "Memory of training": "\n".join([f"about {gigabytes(fit.training.total)}:", *parts]),
        "Memory of evaluation": f"about {gigabytes(fit.evaluation)}",
        "Largest batch that fits": f"{largest.rows} x {largest.accumulation}" if largest else "none",
        "Computation": f"{fit.flops:.2g} operations",
        "Time of training": f"about {short_duration(fit.seconds)}",
    }
    return {**rows, "Cost of training": f"about {fit.cost:.2f}"} if fit.cost is not None else rows


def _only(used: int, there: int) -> str:
    return f", {used:,} used" if used < there else ""


def _evaluations(plan: Plan) -> str:
    return _listed([f"step {one.step}, epoch {one.epoch:.2f}" for one in plan.evaluations])


def _listed(items: Sequence[str]) -> str:
    """A line each: all, or the first and the last ones."""
    if len(items) > _SHOWN:
        left_out = len(items) - _SHOWN
        items = [*items[: _SHOWN - 1], f"({left_out} more)", items[-1]]
    return "\n".join(items)
