"""Everything that can be checked before runs are started, for all of them at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cefr_batch.config.load import load_specs
from cefr_batch.config.schema import ALL_LINEAR, ModelSpec, RunSpec
from cefr_batch.config.sweep import sweep
from cefr_batch.data import Dataset, Example, TokenCounter, load_dataset
from cefr_batch.errors import ModelError, Problem, StoreError, UsageError
from cefr_batch.models.architecture import Architecture
from cefr_batch.models.resolve import all_linear, architecture, check_model, commit_of, tokenizer_file
from cefr_batch.planning.capacity import estimate_capacity
from cefr_batch.planning.gpus import find_gpu
from cefr_batch.planning.plan import Plan, make_plan
from cefr_batch.records import layout
from cefr_batch.runner.findings import Findings
from cefr_batch.schedulers.background import in_background
from cefr_batch.schedulers.base import Check, Scheduler, missing_trackers
from cefr_batch.store import store_folder
from cefr_batch.store.adapters import check_adapter
from cefr_batch.store.base import Store


@dataclass(frozen=True)
class Prepared:
    """A run whose settings, data and model can be read. ``spec``: with the backend settled; ``counter``: of its model."""

    spec: RunSpec
    dataset: Dataset
    counter: TokenCounter
    plan: Plan


@dataclass(frozen=True)
class Preparation:
    """Runs that passed every check, and the cluster that they were checked for. ``refused``: of a dry run that would not
    pass them."""

    runs: list[Prepared]
    scheduler: Scheduler[Any]
    cross_evaluate: bool = False  # each run's model on the evaluation sets of all others, when it is complete
    refused: bool = False


def read_specs(
    levels: Sequence[str], profile: str | None, overrides: Sequence[str], findings: Findings
) -> list[RunSpec]:
    """The settings of each run of these levels that can be read. Reads files of this machine alone."""
    combinations = findings.get(sweep, overrides) or []
    found = [findings.get(load_specs, level, profile=profile, combinations=combinations) for level in levels]
    return [spec for specs in found for spec in specs or []]


def prepare(
    specs: Sequence[RunSpec],
    *,
    scheduler: Scheduler[Any],
    store: Store,
    dry_run: bool = False,
    force: bool = False,
    ask_scheduler: bool = True,
    cross_evaluate: bool = False,
    findings: Findings | None = None,
) -> Preparation:
    """Check what runs with these settings need. Writes nothing to the store; on this machine only its model cache.

    Blocks on the cluster and the store, and for minutes where a model has to be converted first. Raises ``NotReady``
    with every problem, those in ``findings`` (of the settings) first; logs a warning for what may be wrong.
    ``dry_run``: an unreachable cluster or store is a warning too; ``force``: so is what only seems to be wrong, such as
    what does not fit on the cluster's GPU or what the cluster would not start now. Without ``ask_scheduler`` the cluster
    is not asked.
    """
    findings = findings or Findings()
    findings.get(scheduler.require_settings)
    ready = settle(specs, scheduler)
    backends = dict.fromkeys(spec.backend for spec in ready)
    # Asking the cluster takes time; meanwhile examples are built and counted.
    asked = in_background(partial(scheduler.check, backends, store.url)) if ask_scheduler else None
    prepared = read_runs(ready, findings)
    for model, modules in dict.fromkeys((spec.model, tuple(spec.lora.target_modules)) for spec in ready):
        findings.problems += findings.get(check_model, model, modules) or []
    memory = _check_plans(prepared, findings.get(lambda: scheduler.gpu), findings)
    if cross_evaluate and not findings.problems:
        findings.problems += _cross_problems(prepared)
    cluster = findings.get(asked.result if asked else partial(scheduler.check_settings, backends))
    findings.add([*(cluster or []), check_store(store)], warn_only=dry_run, force=force)
    if scheduler.scheme == "local":  # elsewhere the job says so, before it computes anything
        findings.problems += missing_trackers(dict.fromkeys(name for spec in ready for name in spec.training.report_to))
    findings.problems += notice_problems(ready, scheduler, findings)
    starting = {(spec.model, spec.lora.model_dump_json()): spec for spec in ready if spec.model.adapter}
    for spec in starting.values():
        if check := findings.get(_check_adapter, store, spec):
            findings.add([check], warn_only=dry_run)
    findings.add(memory, force=force)
    findings.raise_if_any()
    return Preparation(prepared, scheduler, cross_evaluate, findings.refused)


def settle_backends(specs: Sequence[RunSpec], scheduler: Scheduler[Any]) -> list[RunSpec]:
    """The specs with the cluster's preferred backend in place of ``auto``."""
    preferred = cache(lambda: next(iter(scheduler.backends()), "peft"))
    return [spec.with_backend(preferred()) if spec.backend == "auto" else spec for spec in specs]


def settle(specs: Sequence[RunSpec], scheduler: Scheduler[Any]) -> list[RunSpec]:
    """As ``settle_backends``, and with the names of the model's modules in place of ``all-linear``, where the model can be
    read: why it cannot be, its check says. May download the model's small files; blocks for that."""
    modules = cache(_all_linear)
    return [
        spec.with_target_modules(modules(spec.model)) if spec.lora.target_modules == [ALL_LINEAR] else spec
        for spec in settle_backends(specs, scheduler)
    ]


def _all_linear(model: ModelSpec) -> list[str]:
    try:
        return all_linear(model) or [ALL_LINEAR]
    except ModelError:
        return [ALL_LINEAR]


def read_runs(specs: Sequence[RunSpec], findings: Findings) -> list[Prepared]:
    """Those of the runs whose data and model can be read. May download a model's small files; blocks for that."""
    count = cache(lambda model: findings.get(token_counter, model))
    read = cache(lambda data, level: findings.get(load_dataset, data, level))
    runs = []
    for spec in specs:
        counter, dataset = count(spec.model), read(spec.data, spec.level)
        if counter and dataset:
            runs.append(Prepared(spec, dataset, counter, make_plan(spec, dataset, counter)))
    return runs


def _check_plans(prepared: Sequence[Prepared], gpu: str | None, findings: Findings) -> list[Check]:
    """Collect what these runs would be refused for. Returns whether each fits on the cluster's GPU, if that is known."""
    sizes = cache(lambda model: findings.get(architecture, model))
    for one in prepared:
        findings.problems += [
            Problem(f"level {one.spec.level}, {each.where}", each.what) for each in one.plan.problems()
        ]
        findings.warnings += [f"level {one.spec.level}, {each}" for each in one.plan.warnings()]
    return [_check_memory(one.spec, one.plan, sizes(one.spec.model), gpu) for one in prepared] if gpu else []


def _check_memory(spec: RunSpec, plan: Plan, model: Architecture | None, gpu: str) -> Check:
    """Whether the run fits on this GPU; a GPU or a model of unknown size is a warning."""
    what, unknown = f"memory of {gpu}", "cannot tell whether the runs fit"
    try:
        known = find_gpu(gpu)
    except UsageError as exc:
        return Check(what, f"{unknown}: {exc}", warning=True)
    if model is None:
        not_known = f"the size of {spec.model.name} is not known, so its memory was not checked"
        return Check(what, f"{unknown}: {not_known}", warning=True)
    problems = estimate_capacity(spec, plan, model, known).problems()
    return Check(what, "; ".join(f"level {spec.level}: {one.what}" for one in problems), opinion=True)


def unreadable(where: str, spec: RunSpec, count: TokenCounter, examples: Sequence[Example]) -> Iterator[Problem]:
    """What is wrong where a run's model cannot read other examples, or would read them only in part. ``count``: that of the
    run's model."""
    limit, tokens = spec.training.max_length, count(examples)
    cut = sum(n > limit for n in tokens)
    if cut and not spec.data.allow_truncation:
        what = f"training.max_length of {limit} tokens would cut {cut:,} of {len(tokens):,} examples (the longest has "
        yield Problem(where, f"{what}{max(tokens)}); shorten them, or train with a larger training.max_length")
    for fault in count.faults(examples, limit):
        yield Problem(where, fault.told(len(examples), "examples"))


def _cross_problems(prepared: Sequence[Prepared]) -> Iterator[Problem]:
    """What keeps each of these runs from being evaluated on the others' evaluation sets."""
    sets = {item.dataset.eval_sha256: item for item in prepared}
    if len(sets) < 2:
        yield Problem("--cross-evaluate", "needs runs with at least two different evaluation sets; name several levels")
    for item in prepared:
        for other in sets.values():
            if other.dataset.eval_sha256 != item.dataset.eval_sha256:
                examples = other.dataset.eval[: other.spec.evaluation.max_examples]
                where = f"level {item.spec.level} on the evaluation set of {other.spec.level}"
                yield from unreadable(where, item.spec, item.counter, examples)


def check_store(store: Store) -> Check:
    """Whether the store can be reached and written with this machine's credentials, and is no part of another."""
    if outer := _store_around(store):
        problem = f"it lies in the folder of another store, {outer}; work in the folder above that, or give --store"
        return Check(f"store {store.url}", problem)
    try:
        store.check()
    except StoreError as exc:
        return Check(f"store {store.url}", str(exc))
    return Check(f"store {store.url}")


def _store_around(store: Store) -> Path | None:
    """The store in whose folder this one lies, as where somebody works in the folder of runs; None if there is none."""
    folder = store_folder(store.url)
    for outer in folder.parents if folder else ():
        if os.path.isdir(outer / layout.RUNS) and any((outer / layout.DATASETS).glob("[0-9a-f]" * 64)):
            return outer
    return None


def notice_problems(specs: Sequence[RunSpec], scheduler: Scheduler[Any], findings: Findings) -> Iterator[Problem]:
    """Why nobody would be told of these runs' ends, where somebody should."""
    of_site = findings.get(lambda: scheduler.notify)
    for variable in dict.fromkeys(one.variable for spec in specs if (one := spec.notify or of_site)):
        if lack := findings.get(scheduler.lacks_variable, variable):
            yield Problem("notify", lack)
        elif scheduler.scheme == "local" and find_spec("apprise") is None:
            what = f"{sys.executable} has no apprise; pip install 'cefr-batch[notify]', or leave notify out"
            yield Problem("notify", what)


def _check_adapter(store: Store, spec: RunSpec) -> Check:
    """Raises ``SpecError`` for an adapter that the run cannot start from."""
    what = f"model.adapter {spec.model.adapter}"
    try:
        check_adapter(store, spec, commit_of(tokenizer_file(spec.model).parent))
    except StoreError as exc:
        return Check(what, str(exc))
    return Check(what)


def token_counter(model: ModelSpec) -> TokenCounter:
    """What counts the tokens of examples as this model reads them. Raises ``ModelError``."""
    return TokenCounter(tokenizer_file(model), model.prompt)
