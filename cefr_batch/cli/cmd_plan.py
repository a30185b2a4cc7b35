"""``cefr-batch plan``: what a run would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from cefr_batch.cli.notice import notice_if_slow
from cefr_batch.cli.options import echo_json, json_option, spec_options
from cefr_batch.cli.show import columns
from cefr_batch.errors import DataError, Problem, SpecError

if TYPE_CHECKING:
    from cefr_batch.data import Leakage
    from cefr_batch.levels import RunSpec
    from cefr_batch.plan import Plan

_SHOWN = 12  # evaluations in a column


@dataclass(frozen=True)
class Planned:
    spec: RunSpec
    plan: Plan
    leakage: Leakage


@click.command("plan", short_help="Show what a run would do.")
@spec_options
@json_option
def command(levels: Sequence[str], profile: str | None, overrides: Sequence[str], as_json: bool) -> None:
    """What a run of each level would do: examples, steps, evaluations, tokens.

    Reads the data and the model's tokenizer, and starts nothing. Exits with 1 if the run would be refused.
    """
    planned = _planned(levels, profile, overrides)
    if as_json:
        echo_json({"plans": [_as_json(one) for one in planned]})
    else:
        click.echo("\n".join(_table(planned)))
    problems = [problem for one in planned for problem in _problems(one)]
    if problems:
        raise DataError(problems)


def _planned(levels: Sequence[str], profile: str | None, overrides: Sequence[str]) -> list[Planned]:
    """A plan for each level. Raises one error with the problems of all specs, or of all data."""
    from cefr_batch.data import TokenCounter, leakage, load_dataset
    from cefr_batch.plan import make_plan
    from cefr_batch.pretrained import tokenizer_file
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
    return [
        Planned(spec, make_plan(spec, data, counters[spec.model]), leakage(data.train, data.eval))
        for spec, data in zip(specs, datasets, strict=True)
    ]


def _problems(planned: Planned) -> list[Problem]:
    return [Problem(f"level {planned.spec.level}: {p.where}", p.what) for p in planned.plan.problems()]


def _as_json(planned: Planned) -> dict[str, Any]:
    return {
        "level": planned.spec.level.value,
        "run_family": planned.spec.run_family,
        **asdict(planned.plan),
        "longest_tokens": planned.plan.longest_tokens,
        "leakage": asdict(planned.leakage),
        "problems": [str(problem) for problem in planned.plan.problems()],
        "spec": planned.spec.model_dump(mode="json"),
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
    }


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
