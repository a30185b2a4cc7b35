"""``cefr-batch search``: find good settings for a level by trials that are compared on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import click

from cefr_batch.cli.completion import complete_levels
from cefr_batch.cli.notice import notice_if_slow
from cefr_batch.cli.options import (
    cluster_option,
    command_line,
    echo_json,
    json_option,
    session_option,
    settings_options,
)
from cefr_batch.cli.show import first_line, show, table
from cefr_batch.cli.signals import interrupted_by_signals
from cefr_batch.cli.watch import say_next
from cefr_batch.errors import JobFailed, UsageError
from cefr_batch.runner import Session
from cefr_batch.runner.selection import parse_levels
from cefr_batch.schedulers import Scheduler, State

if TYPE_CHECKING:
    from cefr_batch.records.study import Objective, Sampler
    from cefr_batch.runner.search_prepare import SearchRequest
    from cefr_batch.runner.study import StudyState, TrialState

OBJECTIVES = {
    "response_loss": "response loss",
    "loss": "loss",
    "level_rmse": "distance to the level",
    "reference_gap": "distance to the level's sentences",
}
_study = click.argument("study", metavar="STUDY")


@click.group("search", invoke_without_command=True, short_help="Search for good settings of a level.")
@click.option("--level", metavar="LEVEL", shell_complete=complete_levels, help="A1, A2, B1, B2 or C1.")
@settings_options
@cluster_option
@click.option(
    "--trials",
    type=click.IntRange(1, 999),
    default=9,
    show_default=True,
    help="How many combinations of values to try.",
)
@click.option(
    "--objective",
    type=click.Choice(tuple(OBJECTIVES)),
    default="response_loss",
    show_default=True,
    help="The figure to minimise, on a validation part of the training data.",
)
@click.option(
    "--sampler",
    type=click.Choice(("tpe", "random")),
    default="tpe",
    show_default=True,
    help="How settings are drawn, by Optuna.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed of the settings that are drawn."
)
@click.option(
    "--force", is_flag=True, help="Start even trials that do not seem to fit the GPU or to work on the cluster."
)
@click.option(
    "--resume",
    metavar="STUDY",
    help="Continue a study, from any machine. Only --store and --wait apply; the other options are the ones it began with.",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Keep starting trials until the study has ended. Ctrl-C stops the waiting, not the jobs.",
)
@session_option
@click.pass_context
def command(
    context: click.Context,
    level: str | None,
    profile: str | None,
    overrides: Sequence[str],
    scheduler: Scheduler[Any],
    trials: int,
    objective: str,
    sampler: str,
    seed: int,
    force: bool,
    resume: str | None,
    wait: bool,
    session: Session,
) -> None:
    """Try the settings for which --set gives several values (lora.rank=8,16,32 or training.learning_rate=1e-4..1e-3:log),
    and find the best values.

    Each trial is a run. All train a ninth of the way; the best third of them continues to a third of the way, and the
    best third of these to the end, each from its checkpoint, exactly as if it had never stopped. Trials are compared
    on a validation part of the training data; the best one alone is then evaluated on the evaluation set.

    Without --wait, this starts the trials that can be started now; --resume continues the study. Nothing
    is lost if the command is killed.
    """
    if context.invoked_subcommand:
        return
    if bool(level) == bool(resume):
        raise UsageError("name the level to search for with --level, or the study to continue with --resume")
    study = resume or _begin(
        session, _request(level or "", profile, overrides, trials, objective, sampler, seed), scheduler, force
    )
    with interrupted_by_signals():
        _go_on(session, study, again=bool(resume), wait=wait)


@command.command("show", short_help="Show a study's trials.")
@_study
@json_option
@session_option
def show_command(study: str, as_json: bool, session: Session) -> None:
    """Show a study's trials, their results, and how much each setting matters."""
    from cefr_batch.runner.study_results import importance, study_json

    state = session.study(study)
    if as_json:
        return echo_json(study_json(session.store, state))
    rungs = [f"STEP {step}" for step in state.record.steps]
    show(table([_row(one, len(rungs)) for one in state.trials], ("TRIAL", "STATE", *rungs, "SETTINGS")))
    for line in (*_summary(state), *_importance_lines(importance(state))):
        click.echo(line)
    return None


@command.command("best", short_help="Print the best settings as a job file.")
@_study
@session_option
def best_command(study: str, session: Session) -> None:
    """Print the settings of a study's best trial as a job file, for `cefr-batch submit --profile FILE`."""
    from cefr_batch.runner.study_results import best_job_file

    click.echo(best_job_file(session.study(study)), nl=False)


def _request(
    level: str, profile: str | None, overrides: Sequence[str], trials: int, objective: str, sampler: str, seed: int
) -> SearchRequest:
    from cefr_batch.runner.search_prepare import SearchRequest

    levels = parse_levels([level])
    if len(levels) != 1:
        raise UsageError("--level: a study searches for one level; start one study for each")
    return SearchRequest(
        level=levels[0],
        overrides=tuple(overrides),
        trials=trials,
        profile=profile,
        objective=cast("Objective", objective),
        sampler=cast("Sampler", sampler),
        seed=seed,
    )


def _begin(session: Session, request: SearchRequest, scheduler: Scheduler[Any], force: bool) -> str:
    with notice_if_slow():
        prepared = session.prepare_search(request, cluster=scheduler, force=force)
    with interrupted_by_signals():
        study = session.start_search(prepared)
    record = prepared.record
    if record.trials < request.trials:
        click.echo(f"These settings have {record.trials} combinations, so there are {record.trials} trials.")
    click.echo(f"{study}: {record.trials} trials, compared at steps {', '.join(map(str, record.steps))}")
    return study


def _go_on(session: Session, study: str, *, again: bool, wait: bool) -> None:
    if not wait:
        state = session.advance_search(study, again=again)
        for line in _summary(state):
            click.echo(line)
        if not state.ended:
            say_next(
                "\nThe trials continue when this terminal is closed. Next:",
                ("search", "--resume", study, "--wait"),
                ("search", "show", study),
                ("cancel", study),
            )
        return
    try:
        state = _watch(session, study, again=again)
    except KeyboardInterrupt:
        click.echo("\nNo longer waiting; the jobs continue.", err=True)
        click.echo(f"  go on:  {command_line('search', '--resume', study, '--wait')}", err=True)
        click.get_current_context().exit(130)
    if state.stopped:
        raise JobFailed(state.stopped)
    for line in _summary(state):
        click.echo(line)
    say_next("\nNext:", ("search", "show", study), ("search", "best", study))


def _watch(session: Session, study: str, *, again: bool) -> StudyState:
    told: set[str] = set()
    for state in session.watch_search(study, again=again):
        for line in _news(state):
            if line not in told:
                told.add(line)
                click.echo(line)
    return state


def _news(state: StudyState) -> Iterator[str]:
    steps = state.record.steps
    for one in state.trials:
        for rung, value in one.values.items():
            yield f"{one.run_name}: step {steps[rung - 1]}, {OBJECTIVES[state.record.objective]} {value:.4f}"
        if one.failed:
            yield f"{one.run_name}: failed: {first_line(one.failed)}"
        elif one.run and one.run.state is State.RUNNING and not one.complete:
            yield f"{one.run_name}: running to step {steps[one.rung]}"


def _row(one: TrialState, rungs: int) -> tuple[str, ...]:
    values = [f"{one.values[rung]:.4f}" if rung in one.values else "" for rung in range(1, rungs + 1)]
    state = one.run.state.value if one.run else ""
    return (one.run_name, state, *values, "\n".join(one.overrides))


def _summary(state: StudyState) -> Iterator[str]:
    record, best = state.record, state.best
    came = sum(bool(one.values) for one in state.trials)
    failed = [one for one in state.trials if one.failed]
    yield f"{record.study}: {came} of {record.trials} trials compared" + (f", {len(failed)} failed" if failed else "")
    for one in failed:
        yield f"  {one.run_name} failed: {first_line(one.failed)}"
    if came:
        share = 100 * state.trained_steps / state.grid_steps
        whole = f"{record.trials} whole trainings take {state.grid_steps:,}"
        yield f"Trained {state.trained_steps:,} steps; {whole} ({share:.0f} %)"
    if best and best.last_value is not None:
        yield f"Best: {best.run_name}, {OBJECTIVES[record.objective]} {best.last_value:.4f} ({', '.join(best.overrides)})"
        yield "It was chosen as the lowest of several, so this figure is optimistic. The evaluation set took no part in it."
    if state.stopped:
        yield state.stopped


def _importance_lines(found: dict[str, float]) -> Iterator[str]:
    if found:
        shares = ", ".join(f"{key} {100 * share:.0f} %" for key, share in found.items())
        yield f"How much each setting matters at the first comparison (PED-ANOVA): {shares}"
