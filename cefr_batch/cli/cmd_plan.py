"""``cefr-batch plan``: what a run would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import ceil
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import click

from cefr_batch.cli.notice import notice_if_slow
from cefr_batch.cli.options import cluster_option, echo_json, json_option, spec_options
from cefr_batch.cli.show import duration, settings_files, show, size, table
from cefr_batch.errors import DataError, Problem
from cefr_batch.runner import Session
from cefr_batch.schedulers import Scheduler

if TYPE_CHECKING:
    from cefr_batch.config.schema import DataSpec, RunSpec, TrainingSpec
    from cefr_batch.planning.capacity import Fit
    from cefr_batch.planning.plan import Plan, PlannedTexts
    from cefr_batch.runner.plan import RunPlan

_WIDTH = 40  # of a cell's lines
_COLUMNS = 6  # of runs in the table
_LISTED = 12  # evaluations or checkpoints in a cell


@click.command("plan", short_help="Show what a run would do.")
@spec_options
@cluster_option
@click.option(
    "--gpu",
    metavar="NAME",
    help="Show memory and time on a GPU: rtx4090, l4, …, or h100:20 for 20 GB of one. Default: the cluster's.",
)
@click.option(
    "--price-per-hour",
    type=click.FloatRange(min=0),
    metavar="PRICE",
    help="Price of one such GPU for an hour. Default: the cluster's.",
)
@json_option
def command(
    levels: Sequence[str],
    profile: str | None,
    overrides: Sequence[str],
    scheduler: Scheduler[Any],
    gpu: str | None,
    price_per_hour: float | None,
    as_json: bool,
) -> None:
    """Show what each run would do if you submitted it: examples, steps, evaluations, tokens; if the GPU is
    known, memory and time.

    Reads the data and the model's tokenizer and sizes, and starts nothing. Exits with 1 if the run would be refused.
    """
    with notice_if_slow():
        plans = Session().plan(
            levels, cluster=scheduler, profile=profile, overrides=overrides, gpu=gpu, price_per_hour=price_per_hour
        )
    if as_json:
        echo_json({"plans": [one.as_json() for one in plans]})
    else:
        shown = plans if len(plans) <= _COLUMNS else [one for one in plans if one.varied == plans[0].varied]
        columns = [_column(one, profile) for one in shown]
        rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
        show(table([row for row in rows if any(row[1:])]))
        if len(shown) < len(plans):
            first = f"the table shows those with {', '.join(plans[0].varied)}, --json shows all"
            click.echo(f"{len(plans)} runs in all; {first}.")
    for one in plans:
        for warning in one.plan.warnings():
            click.echo(f"warning: level {one.spec.level}, {warning}", err=True)
    problems = [Problem(f"level {one.spec.level}, {p.where}", p.what) for one in plans for p in one.problems()]
    if problems:
        raise DataError(problems)


def _column(planned: RunPlan, profile: str | None) -> dict[str, str]:
    spec, plan = planned.spec, planned.plan
    training, data = spec.training, spec.data
    fewer = plan.evaluated_examples < plan.eval.examples
    used = f", {plan.evaluated_examples:,} used (evaluation.max_examples)" if fewer else ""
    return {
        "Level": spec.level.value,
        "Settings": "\n".join(settings_files(spec, profile)),
        **({"Varied": "\n".join(planned.varied)} if planned.varied else {}),
        "Model": spec.model.name + (f"\nfrom the adapter of {spec.model.adapter}" if spec.model.adapter else ""),
        "Backend": spec.backend,
        **_data_rows(data),
        "Training examples": f"{plan.train.examples:,}",
        "Evaluation examples": f"{plan.eval.examples:,}{used}",
        "Sentences seen in training": f"{planned.leakage.sentences_percent:.1f} % of the evaluation set's",
        "Prompt": spec.model.prompt,
        "Longest example": f"{plan.longest_tokens} of {plan.max_length} tokens",
        "Truncated": f"{plan.train.truncated:,} training, {plan.eval.truncated:,} eval",
        "Batch": f"{training.batch_size} x {training.gradient_accumulation_steps} = {plan.effective_batch} examples",
        "Learning rate": f"{training.learning_rate:g}, {training.lr_scheduler}",
        "LoRA": f"rank {spec.lora.rank}, alpha {spec.lora.alpha}, dropout {spec.lora.dropout:g}\n{_modules(spec)}",
        "Steps": f"{plan.steps:,} ({plan.steps_per_epoch:,} an epoch)" + _may_end_early(training),
        "Warm-up": f"{plan.warmup_steps:,} steps",
        "Epochs": f"{plan.epochs:.4g}" + _part_of_an_epoch(plan, training),
        "Tokens an epoch": f"{plan.train.kept_tokens:,}" + "\nloss on the responses" * (training.loss_on == "response"),
        "Tokens in all": f"{plan.total_tokens:,}",
        "Generated texts": _texts(plan.texts, _why_fewer(spec, plan)),
        "Evaluations": _listed([f"step {one.step}, epoch {one.epoch:.2f}" for one in plan.evaluations]),
        "Checkpoints": _listed([f"step {step}" for step in plan.checkpoints]),
        **(_fit_rows(planned.fit) if planned.fit else {}),
    }


def _data_rows(data: DataSpec) -> dict[str, str]:
    """Ready examples have the words that they have: an empty cell."""
    from cefr_batch.config.schema import STARTERS

    if not data.source:
        return {"Data": f"{data.train}\n{data.eval}", "Words per example": ""}
    whose = " (the starter corpus, no data of your own)" if data.source in STARTERS else ""
    return {
        "Data": f"{data.source}{whose}\nsplit by {data.split_by}",
        "Words per example": f"{data.words_per_example:,}",
    }


def _modules(spec: RunSpec) -> str:
    return "\n".join(wrap(", ".join(spec.lora.target_modules), _WIDTH))


def _why_fewer(spec: RunSpec, plan: Plan) -> str:
    """Why each model will write fewer answers than are asked for, no more than evaluation examples are used; empty if it
    will not."""
    asked, limit, data = spec.generation.examples, spec.evaluation.max_examples, spec.data
    if plan.texts.examples >= asked:
        return ""
    raised = [f"evaluation.max_examples to {asked}"] if limit and limit < asked else []
    if plan.eval.examples < asked:
        raised.append(
            f"data.examples to {ceil(asked / data.eval_fraction)}"
            if data.source
            else "the number of examples in data.eval"
        )
    return f"(not {asked:,} answers: raise {' and '.join(raised)})"


def _texts(planned: PlannedTexts, fewer: str) -> str:
    """How many texts the models will write, how that is counted, and in which ways the untrained one is asked.
    ``fewer``: why there are not as many as were asked for."""
    if not planned.texts:
        return "none"
    tokens = planned.texts * planned.max_new_tokens
    ways = 1 + len(planned.baselines)
    models = "2 models" if ways == 1 else f"{1 + ways} (tuned; untrained in {ways} ways)"
    missing = [f"no chat template for {', '.join(planned.missing)}"] if planned.missing else []
    asked = f"untrained model: {', '.join(['asked as in training', *planned.baselines])}"
    product = f"{planned.examples:,} answers x {models} x 2 (greedy, sampled)"
    lines = [f"{planned.texts:,}, at most {tokens:,} tokens:", product, fewer, asked, *missing]
    return "\n".join(filter(None, lines))


def _part_of_an_epoch(plan: Plan, training: TrainingSpec) -> str:
    if plan.steps >= plan.steps_per_epoch:
        return ""
    setting = "max_steps" if training.max_steps else "epochs"
    return (
        f"\nstops after {plan.steps * plan.effective_batch:,} of {plan.train.examples:,} examples\n(training.{setting})"
    )


def _may_end_early(training: TrainingSpec) -> str:
    n = training.early_stopping
    return f"\nor fewer: it stops after {n} evaluations without a lower loss" if n else ""


def _fit_rows(fit: Fit) -> dict[str, str]:
    parts = (f"{bytes_ / 1e9:5.1f} {name}" for name, bytes_ in asdict(fit.training).items())
    largest = fit.largest_batch
    rows = {
        "GPU": f"{fit.gpu.name}, {size(fit.gpu.memory)}",
        "Memory of training": "\n".join([f"about {fit.training.total / 1e9:.1f} GB:", *parts]),
        "Memory of evaluation": f"about {size(fit.evaluation)}",
        "Largest batch that fits": f"{largest.rows} x {largest.accumulation}" if largest else "none",
        "Computation": f"{fit.flops:.2g} operations",
        "Time of training": _time(fit),
    }
    if fit.cost is not None:
        rows["Cost of training"] = f"about {fit.cost:.2f}, in the currency of the price"
    return rows


def _time(fit: Fit) -> str:
    """The expected time, what it assumes, and how far it may be off."""
    fastest, slowest = map(duration, fit.seconds_range)
    assumed = f"at {100 * fit.utilisation:.0f} % of the GPU's arithmetic"
    return f"about {duration(fit.seconds)}\n{assumed};\nfrom {fastest}\nto {slowest}"


def _listed(items: Sequence[str]) -> str:
    """A line each: all, or the first ones and the last."""
    if len(items) > _LISTED:
        items = [*items[: _LISTED - 1], f"({len(items) - _LISTED} more)", items[-1]]
    return "\n".join(items)
