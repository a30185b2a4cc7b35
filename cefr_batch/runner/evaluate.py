"""Ask for evaluations of complete runs on other sets: check everything at once, record what is asked, start the jobs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import Level, RunSpec
from cefr_batch.data import Dataset, Example, load_dataset
from cefr_batch.data.examples import read_examples
from cefr_batch.errors import DataError, NotFound, NotReady, Problem, StoreError
from cefr_batch.records import layout
from cefr_batch.records.evaluations import EvaluatedModel, EvaluationRequest, EvaluationTask
from cefr_batch.records.submission import Submission
from cefr_batch.runner.evaluations import open_tasks, requested_tasks, stored_evaluations
from cefr_batch.runner.findings import Findings
from cefr_batch.runner.prepare import check_store, token_counter, unreadable
from cefr_batch.runner.selection import find_runs, newest_complete
from cefr_batch.runner.submission import evaluate_again, read_dataset_name, read_spec, start
from cefr_batch.schedulers import JobGroup, JobSpec, Scheduler
from cefr_batch.schedulers.background import in_background
from cefr_batch.store.base import Store
from cefr_batch.store.datasets import fetch_dataset, store_dataset

log = logging.getLogger(__name__)

ALL = "ALL"
_MAY_STAY_ASKED = (
    "no job was started for the evaluations of %s, but the store may still list them as requested, since they could not be "
    "taken back: %s; %s"
)
_BACKEND = "peft"  # models are evaluated with it, whatever they were trained with


@dataclass(frozen=True)
class EvaluationSet:
    """Examples to evaluate on: the first ``limit`` of a dataset's evaluation side (None: all), and what they are called."""

    label: str
    dataset: Dataset
    limit: int | None

    def examples(self, most: int | None = None) -> tuple[Example, ...]:
        """The examples that are used, at most ``most``."""
        return self.dataset.eval[: self.limit][:most]

    def task(self, model: EvaluatedModel, spec: RunSpec, most: int | None = None) -> EvaluationTask:
        """What a run of this spec is asked with this set."""
        used = len(self.examples(most))
        return EvaluationTask(
            model=model,
            label=self.label,
            dataset=self.dataset.sha256,
            eval_sha256=self.dataset.eval_sha256,
            examples=used,
            answered=min(spec.generation.examples, used),
        )


@dataclass(frozen=True)
class PreparedEvaluations:
    """Evaluations that passed every check: what is asked of each run, the sets, and the cluster that it was checked for."""

    tasks: Mapping[str, list[EvaluationTask]]
    sets: tuple[EvaluationSet, ...]
    scheduler: Scheduler[Any]

    @property
    def runs(self) -> list[str]:
        """The runs that are evaluated."""
        return list(self.tasks)


def prepare_evaluations(
    store: Store,
    runs: Sequence[str],
    on: Sequence[str],
    *,
    scheduler: Scheduler[Any],
    base: bool = False,
    examples: int | None = None,
) -> PreparedEvaluations:
    """Check what evaluations of these runs need, for ``launch_evaluations``. Writes nothing to the store.

    ``on``: levels, of which the newest complete run's evaluation set counts, or else that of the level's job file; ``all``:
    the levels that have a complete run, but for a run's own set, which it was evaluated on; and list-format files. ``base``:
    the runs' base models too; ``examples``: at most so many of each set.
    Blocks on the cluster and the store. Raises ``NotReady`` with every problem.
    """
    on = [one.upper() if one.upper() in (ALL, *Level) else one for one in on]
    findings = Findings()
    findings.get(scheduler.require_settings)
    asked = in_background(partial(scheduler.check, [_BACKEND], store.url))
    every = (findings.get(newest_complete, store, list(Level)) or {}) if ALL in on else {}
    names = _names(on, list(every))
    sets = [one for name in names if (one := findings.get(_evaluation_set, store, name))]
    specs = {run: spec for run in runs if (spec := findings.get(_complete_spec, store, run))}
    findings.problems += _unreadable(specs, sets, examples, findings)
    # An evaluation is short, and the cluster has the last word: opinions do not keep it from being asked.
    findings.add([*(findings.get(asked.result) or []), check_store(store)], force=True)
    findings.raise_if_any()
    models: tuple[EvaluatedModel, ...] = ("base", "tuned") if base else ("tuned",)
    tasks = {}
    for run, spec in specs.items():
        own = read_dataset_name(store, run) if every else ""
        wanted = [one for one in sets if one.label in on or one.dataset.sha256 != own]
        tasks[run] = [one.task(model, spec, examples) for one in wanted for model in models]
    return PreparedEvaluations(tasks, tuple(sets), scheduler)


def job_group(store: Store, prepared: PreparedEvaluations) -> JobGroup | None:
    """The jobs of those runs of which something is not stored; None if everything is."""
    jobs = []
    for run, tasks in prepared.tasks.items():
        stored = set(stored_evaluations(store, run))
        if any(task.name not in stored for task in tasks):
            jobs.append(JobSpec(run, store.url))
    return JobGroup(tuple(jobs)) if jobs else None


def launch_evaluations(store: Store, prepared: PreparedEvaluations) -> list[Submission]:
    """Record what is asked and start a job for each run of which something is not stored; blocks until they are submitted.

    Idempotent: what is stored is not computed again. Raises ``SchedulerError`` if one cannot be started: then none was,
    and nothing more is asked than before or meanwhile by others, as where this fails or is interrupted earlier. Where jobs
    may run (``JobsMayRun``) or were stopped again, it stays asked.
    """
    group = job_group(store, prepared)
    if group is None:
        return []
    for one in prepared.sets:
        store_dataset(store, one.dataset)
    before = {job.run: requested_tasks(store, job.run) for job in group.jobs}
    undo = partial(_ask_no_more, store, prepared, before)
    try:
        for run in before:
            request_evaluations(store, run, [*open_tasks(store, run), *prepared.tasks[run]])
    except BaseException:
        undo()
        raise
    submissions, _ = start(store, prepared.scheduler, group, layout.EVALUATION_SUBMISSION, undo)
    return submissions


def _ask_no_more(store: Store, prepared: PreparedEvaluations, before: Mapping[str, Sequence[EvaluationTask]]) -> None:
    """Take back what was asked of these runs, but not what others have asked of them since. Raises nothing: where the store
    fails, it logs a warning."""
    for run, tasks in before.items():
        added = {task.name for task in prepared.tasks[run]} - {task.name for task in tasks}
        try:
            now = requested_tasks(store, run)
            request_evaluations(store, run, [one for one in (*tasks, *now) if one.name not in added])
        except StoreError as exc:
            log.warning(_MAY_STAY_ASKED, run, exc, evaluate_again(run))


def request_evaluations(store: Store, run: str, tasks: Sequence[EvaluationTask]) -> None:
    """Record what a run's job is to evaluate once the run is complete, each task once."""
    once = list({task.name: task for task in tasks}.values())
    store.put_record(layout.run_key(run, layout.EVALUATION_REQUEST), EvaluationRequest(run=run, tasks=once))


def cross_tasks(runs: Mapping[str, tuple[RunSpec, Dataset]]) -> dict[str, list[EvaluationTask]]:
    """For runs that are started together: each one's model on the evaluation sets of all others. Its own is evaluated by
    every run anyway, before and after training."""
    found: dict[str, list[EvaluationTask]] = {}
    for run, (spec, dataset) in runs.items():
        others = {
            one.eval_sha256: EvaluationSet(other.level.value, one, other.evaluation.max_examples)
            for other, one in runs.values()
            if one.eval_sha256 != dataset.eval_sha256
        }
        found[run] = [one.task("tuned", spec) for one in others.values()]
    return found


def _names(on: Sequence[str], every: Sequence[str]) -> list[str]:
    """Each set's name once; ``every``: the levels that ``all`` stands for."""
    chosen: list[str] = []
    for one in on:
        chosen += every if one == ALL else [one]
    return list(dict.fromkeys(chosen))


def _evaluation_set(store: Store, name: str) -> EvaluationSet:
    """Raises ``NotReady``, ``DataError`` or ``StoreError`` with what is wrong with it."""
    if name not in [level.value for level in Level]:
        return _of_file(name)
    with suppress(NotFound):
        (run,) = find_runs(store, levels=[name], complete=True)
        with TemporaryDirectory() as folder:
            dataset = fetch_dataset(store, read_dataset_name(store, run), Path(folder))
        return EvaluationSet(name, dataset, read_spec(store, run).evaluation.max_examples)
    spec = load_spec(name)
    return EvaluationSet(name, load_dataset(spec.data, spec.level), spec.evaluation.max_examples)


def _of_file(name: str) -> EvaluationSet:
    path = Path(os.path.expanduser(name))
    if not path.is_file():
        levels = ", ".join(level.value for level in Level)
        raise NotReady([Problem("--on", f"{name!r} is neither a level ({levels}, all) nor a file")], exit_code=2)
    return EvaluationSet(path.name, Dataset((), read_examples(path)), None)


def _complete_spec(store: Store, run: str) -> RunSpec:
    if not store.exists(layout.run_key(run, layout.MANIFEST)):
        what = f"is not complete, so it has no model to evaluate; see `cefr-batch status {run}`"
        raise DataError([Problem(run, what)])
    return read_spec(store, run)


def _unreadable(
    specs: Mapping[str, RunSpec], sets: Sequence[EvaluationSet], most: int | None, findings: Findings
) -> Iterator[Problem]:
    """The sets with examples that a run's model cannot read, or would read only in part."""
    models = dict.fromkeys(spec.model for spec in specs.values())
    counters = {model: findings.get(token_counter, model) for model in models}
    for run, spec in specs.items():
        if count := counters[spec.model]:
            for one in sets:
                yield from unreadable(f"{run} on {one.label}", spec, count, one.examples(most))
