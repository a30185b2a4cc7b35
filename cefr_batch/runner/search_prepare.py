"""What is checked before a search starts, and how its study gets a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cefr_batch import __version__
from cefr_batch.config.load import load_specs
from cefr_batch.config.schema import RunSpec
from cefr_batch.config.sweep import Choice, Values, parse_choices
from cefr_batch.data import Dataset, load_validation
from cefr_batch.errors import AlreadyExists, Problem, SpecError, UsageError
from cefr_batch.planning.plan import Schedule
from cefr_batch.records import layout
from cefr_batch.records.study import Objective, Sampler, StudyRecord
from cefr_batch.records.timestamps import now
from cefr_batch.runner.findings import Findings
from cefr_batch.runner.prepare import prepare
from cefr_batch.runner.study import BY_LEVELS, all_studies
from cefr_batch.schedulers import Scheduler
from cefr_batch.search.halving import rung_steps
from cefr_batch.search.sampling import combinations, load_optuna
from cefr_batch.store.base import Store
from cefr_batch.store.datasets import store_dataset

REDUCTION, RUNGS = 3, 3
# What a search may not vary: trials could then not be compared at the same step, or by the same figures.
_SAME = (
    "training.epochs", "training.max_steps", "training.max_length", "training.eval_steps", "training.batch_size",
    "training.gradient_accumulation_steps", "training.keep_checkpoints", "training.report_to",
)  # fmt: skip
_SEARCHED = ("lora.", "training.")


@dataclass(frozen=True)
class SearchRequest:
    """What a search is asked to do: settings as ``--set`` takes them, those with several values searched."""

    level: str
    overrides: tuple[str, ...]
    trials: int
    profile: str | None = None
    objective: Objective = "response_loss"
    sampler: Sampler = "tpe"
    seed: int = 0


@dataclass(frozen=True)
class PreparedSearch:
    """A search that passed every check. ``record`` has no name yet."""

    record: StudyRecord
    family: str
    trial_data: Dataset
    evaluation_data: Dataset
    scheduler: Scheduler[Any]


def prepare_search(
    store: Store, request: SearchRequest, scheduler: Scheduler[Any], *, force: bool = False
) -> PreparedSearch:
    """Check everything that a search needs. Writes nothing. Raises ``NotReady``, ``SpecError`` or ``DataError`` with every
    problem, ``UsageError`` for a search without a choice."""
    load_optuna()
    given = zip(request.overrides, parse_choices(request.overrides), strict=True)
    choices = [(text, choice) for text, choice in given if _is_choice(choice)]
    searched, space = [text for text, _ in choices], [choice for _, choice in choices]
    _check_space(space)
    fixed = [text for text in request.overrides if text not in searched]
    found = Findings()
    specs = found.get(load_specs, request.level, profile=request.profile, combinations=_combinations(fixed, space))
    first, *_ = prepare(specs or [], scheduler=scheduler, store=store, force=force, findings=found).runs
    _check_objective(first.spec, request.objective)
    trial_data = load_validation(first.spec.data, first.spec.level, first.dataset)
    evaluation_data = Dataset((), first.dataset.eval)  # alone, so that no trial's job fetches it with its data
    record = _record(request, searched, first.spec, trial_data, evaluation_data, scheduler.name)
    return PreparedSearch(record, first.spec.run_family, trial_data, evaluation_data, scheduler)


def _record(
    request: SearchRequest,
    searched: Sequence[str],
    spec: RunSpec,
    trial_data: Dataset,
    evaluation: Dataset,
    cluster: str,
) -> StudyRecord:
    return StudyRecord(
        study="",
        level=spec.level.value,
        settings=spec.model_dump(mode="json"),
        space=list(searched),
        trials=min(request.trials, combinations(parse_choices(searched)) or request.trials),
        steps=_rungs(spec, trial_data),
        reduction=REDUCTION,
        sampler=request.sampler,
        seed=request.seed,
        objective=request.objective,
        dataset=trial_data.sha256,
        evaluation_dataset=evaluation.sha256,
        cluster=cluster,
        code_version=__version__,
        created_at=now(),
    )


def _is_choice(choice: Choice) -> bool:
    return not (isinstance(choice, Values) and len(choice.overrides) == 1)


def _ends(choice: Choice) -> list[str]:
    """All listed values, or both ends of a range."""
    if isinstance(choice, Values):
        return list(choice.overrides)
    return [choice.override(choice.low), choice.override(choice.high)]


def _check_space(space: Sequence[Choice]) -> None:
    if not space:
        example = "--set lora.rank=8,16,32 --set training.learning_rate=1e-4..1e-3:log"
        raise UsageError(f"there is nothing to search: give a setting several values, as in {example}")
    keys = [one.key for one in space]
    problems = [Problem("--set", f"{key} is given twice") for key in dict.fromkeys(keys) if keys.count(key) > 1]
    for key in dict.fromkeys(keys):
        if key in _SAME or not key.startswith(_SEARCHED):
            what = "cannot be searched: trials could not be compared at the same step and by the same figures"
            problems.append(Problem("--set", f"{key} {what}; give it one value, or start a search for each of them"))
    if problems:
        raise SpecError(problems)


def _combinations(fixed: Sequence[str], space: Sequence[Choice]) -> list[tuple[str, ...]]:
    """The settings that are checked before a search starts: the first values, and beside them each other one that is listed
    or ends a range."""
    first = [_ends(one)[0] for one in space]
    return [(*fixed, *first), *((*fixed, *first, end) for choice in space for end in _ends(choice)[1:])]


def _check_objective(spec: RunSpec, objective: Objective) -> None:
    if objective in BY_LEVELS and not spec.generation.examples:
        raise UsageError(f"--objective {objective} needs sentences that the models write; set generation.examples")


def _rungs(spec: RunSpec, data: Dataset) -> list[int]:
    schedule = Schedule.of(len(data.train), spec.training, spec.resources.gpus)
    return rung_steps(schedule.steps, spec.training.eval_steps, REDUCTION, RUNGS)


def create_study(store: Store, prepared: PreparedSearch) -> StudyRecord:
    """Store the data and claim the next free name. Starts nothing."""
    for data in (prepared.trial_data, prepared.evaluation_data):
        store_dataset(store, data)
    number = 1 + len([name for name in all_studies(store) if name.startswith(f"{prepared.family}-s")])
    while True:
        record = prepared.record.model_copy(update={"study": f"{prepared.family}-s{number}"})
        try:
            store.put_record(layout.study_key(record.study, layout.STUDY), record, if_absent=True)
        except AlreadyExists:
            number += 1
        else:
            return record
