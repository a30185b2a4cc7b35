"""Everything that can be found out before runs are started, for all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from threading import Thread
from typing import Any, ParamSpec, TypeVar

from cefr_batch.architecture import Architecture
from cefr_batch.data import Dataset, Example, TokenCounter, load_dataset
from cefr_batch.errors import CefrBatchError, NotReady, Problem, StoreError, UsageError
from cefr_batch.fit import make_fit
from cefr_batch.gpus import find_gpu
from cefr_batch.launch.base import Check, Launcher
from cefr_batch.levels import ModelSpec, RunSpec
from cefr_batch.plan import Plan, make_plan
from cefr_batch.pretrained import architecture, resolve_model, tokenizer_file
from cefr_batch.spec import load_specs, sweep
from cefr_batch.store.base import Store

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """A run that can be started: its spec, with the backend settled, and its dataset."""

    spec: RunSpec
    dataset: Dataset


@dataclass(frozen=True)
class Preparation:
    runs: list[Prepared]
    warnings: list[str]


def prepare(
    levels: Sequence[str],
    *,
    profile: str | None,
    overrides: Sequence[str],
    launcher: Launcher[Any],
    store: Store,
    dry_run: bool,
    force: bool = False,
    ask_launcher: bool = True,
) -> Preparation:
    """Read and check what runs of these levels need. Leaves nothing in the store; on this machine its cache of models.

    May take minutes where a model must be converted first. Raises one error with every problem of every level. For a
    dry run the place and the store need not be within reach: what is wrong with them is a warning. So is, with ``force``,
    what does not fit on the place's GPU. Without ``ask_launcher`` the place is not looked at.
    """
    findings = _Findings()
    combinations = findings.get(sweep, overrides) or []
    read_specs = [findings.get(load_specs, level, profile=profile, combinations=combinations) for level in levels]
    default = cache(lambda: next(iter(launcher.backends()), "peft"))
    found = [spec for specs in read_specs for spec in specs or []]
    ready = [spec.with_backend(default()) if spec.backend == "auto" else spec for spec in found]
    backends = dict.fromkeys(spec.backend for spec in ready)
    # to ask the place is to wait; meanwhile examples are built and counted
    asked = _in_background(partial(launcher.check, backends, store.url)) if ask_launcher else None
    prepared, fits = _planned(ready, findings.get(lambda: launcher.gpu), findings)
    place = findings.get(asked.result) if asked else None
    wrong = [check for check in (*(place or []), check_store(store)) if check.problem]
    findings.problems += [Problem("", one.problem) for one in wrong if not (one.warning or dry_run)]
    unfit = [check for check in fits if check.problem]
    findings.problems += [Problem("", one.problem) for one in unfit if not (one.warning or force)]
    findings.raise_if_any()
    return Preparation(prepared, list(dict.fromkeys(one.problem for one in wrong + unfit)))


def _in_background(function: Callable[[], T]) -> Future[T]:
    """Its result, from a thread that Ctrl-C need not wait for, as it would for one of a pool."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(function())
        except BaseException as exc:
            answer.set_exception(exc)

    Thread(target=run, daemon=True).start()
    return answer


def _planned(specs: Sequence[RunSpec], gpu: str | None, findings: _Findings) -> tuple[list[Prepared], list[Check]]:
    """The runs whose data and model can be read, and whether they fit on the place's GPU, if it has one."""
    counters = {model: findings.get(_counter, model) for model in dict.fromkeys(spec.model for spec in specs)}
    read = cache(lambda data, level: findings.get(load_dataset, data, level))
    sizes = cache(lambda model: findings.get(architecture, model))
    prepared, fits = [], []
    for spec in specs:
        dataset, counter = read(spec.data, spec.level), counters[spec.model]
        if dataset and counter:
            plan = make_plan(spec, dataset, counter)
            findings.problems += [Problem(f"level {spec.level}, {one.where}", one.what) for one in plan.problems()]
            if gpu:
                fits.append(_check_memory(spec, plan, sizes(spec.model), gpu))
            prepared.append(Prepared(spec, dataset))
    return prepared, fits


def _check_memory(spec: RunSpec, plan: Plan, model: Architecture | None, gpu: str) -> Check:
    """Whether the run fits on this card; a card or a model that nothing is known of is a warning."""
    what = f"memory of {gpu}"
    try:
        card = find_gpu(gpu)
    except UsageError as exc:
        return Check(what, f"whether the runs fit is not known: {exc}", warning=True)
    if model is None:
        return Check(what, f"whether the runs fit is not known: {spec.model.name} is not like Llama", warning=True)
    problems = make_fit(spec, plan, model, card).problems()
    return Check(what, "".join(f"level {spec.level}: {one.what} (--force submits it all the same)" for one in problems))


def check_store(store: Store) -> Check:
    """Whether the store can be reached and written with the keys that are here."""
    try:
        store.check()
    except StoreError as exc:
        return Check(f"store {store.url}", str(exc))
    return Check(f"store {store.url}")


@dataclass
class _Findings:
    """Problems from several checks, each once."""

    problems: list[Problem] = field(default_factory=list)
    errors: list[CefrBatchError] = field(default_factory=list)

    def get(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """The function's result; None if it found problems."""
        try:
            return function(*args, **kwargs)
        except CefrBatchError as exc:
            self.errors.append(exc)
            self.problems += getattr(exc, "problems", None) or [Problem("", str(exc))]
            return None

    def raise_if_any(self) -> None:
        if self.problems:
            raise NotReady(dict.fromkeys(self.problems), max((e.exit_code for e in self.errors), default=1))


def _counter(model: ModelSpec) -> Callable[[Sequence[Example]], list[int]]:
    if Path(model.name).is_absolute():
        resolve_model(model)  # all of it should be there; what the hub has is downloaded by the job
    return cache(TokenCounter(tokenizer_file(model)))  # runs of a sweep have their data in common
