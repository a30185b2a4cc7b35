"""Runs that nobody claims before their jobs start: requests for them, and the claim that a job makes itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from cefr_batch.config.schema import STARTERS, RunSpec
from cefr_batch.errors import Problem, UsageError
from cefr_batch.records import layout
from cefr_batch.runner.findings import Findings
from cefr_batch.runner.launch import Request, report_url
from cefr_batch.runner.prepare import notice_problems, prepare, read_specs, settle, settle_backends
from cefr_batch.runner.selection import check_run_name
from cefr_batch.runner.submission import claim_as, read_spec
from cefr_batch.schedulers import JobGroup, JobSpec, Scheduler, get_scheduler
from cefr_batch.store import Store
from cefr_batch.store.datasets import store_dataset


def render_unclaimed(
    store: Store, levels: Sequence[str], *, profile: str | None, overrides: Sequence[str], scheduler: Scheduler[Any]
) -> Request:
    """The request for somebody else to send, whose jobs carry their runs' settings and claim the runs themselves. Asks
    neither the store nor the cluster nor a hub; the same settings give the same names, and the same text.

    Raises ``NotReady`` with every problem that the settings show; the jobs check the rest. ``SchedulerError`` for a
    store that they cannot reach.
    """
    found = Findings()
    found.get(scheduler.require_settings)
    specs = settle_backends(read_specs(levels, profile, overrides, found), scheduler)
    found.problems += notice_problems(specs, scheduler, found)
    if not scheduler.sees_files:
        found.problems += [problem for spec in specs for problem in _file_problems(spec)]
    checks = found.get(scheduler.check_settings, dict.fromkeys(spec.backend for spec in specs)) or []
    found.warnings += [check.problem for check in checks if check.problem]
    found.raise_if_any()
    runs = {unclaimed_name(spec): spec for spec in specs}
    jobs = tuple(JobSpec(run, store.url, spec.resources.gpus, _as_json(spec)) for run, spec in runs.items())
    group = JobGroup(jobs, report_url(store, scheduler, list(runs)))
    return Request(list(runs), scheduler.describe(scheduler.render(group)))


def unclaimed_name(spec: RunSpec) -> str:
    """A run's name that follows from its settings alone, as in ``llama1b-3f9a21-b1-unsloth-v1``: nobody is asked which
    names are free. A setting that a later version adds, and that is as it was before, does not change the name."""
    settings = json.dumps(spec.model_dump(mode="json", exclude_defaults=True), indent=1)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:6]
    return f"{spec.alias}-{digest}-{spec.run_family.removeprefix(f'{spec.alias}-')}-v1"


def begin(store: Store, run: str, spec: RunSpec) -> None:
    """Check and claim a run as ``launch`` does, under a name that was chosen elsewhere. For a job that nobody
    submitted.

    Idempotent: a run that the store has with the same settings is left as it is. Raises ``UsageError`` for a name that
    cannot be a run's, or that the store has with other settings, and ``NotReady`` for whatever else is wrong.
    """
    check_run_name(run)
    here = get_scheduler("local")
    (spec,) = settle([spec], here)
    if not store.exists(layout.run_key(run, layout.SPEC)):
        (item,) = prepare([spec], scheduler=here, store=store).runs
        store_dataset(store, item.dataset)
        if claim_as(store, run, item.spec, item.dataset.sha256):
            return
    if read_spec(store, run) != spec:
        raise UsageError(f"run {run} already exists in the store with other settings; choose another name")


def _as_json(spec: RunSpec) -> str:
    """In ASCII, a setting in each line: for people who read the manifest, and every parser."""
    return json.dumps(spec.model_dump(mode="json"), indent=1)


def _file_problems(spec: RunSpec) -> Iterator[Problem]:
    """The files of this machine that a job would have to read."""
    data = {key: value for key in ("source", "train", "eval") if (value := getattr(spec.data, key))}
    for key, value in data.items():
        if value not in STARTERS:
            yield Problem(
                f"level {spec.level}, data.{key}",
                f"{value} is a file of this machine, which the job cannot read; add --claim, which copies it to the store",
            )
