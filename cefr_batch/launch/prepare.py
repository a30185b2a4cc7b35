"""Everything that can be found out before a run is started, for all levels at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from cefr_batch.data import Dataset, TokenCounter, load_dataset
from cefr_batch.errors import CefrBatchError, NotReady, Problem
from cefr_batch.launch.base import Launcher
from cefr_batch.levels import ModelSpec, RunSpec
from cefr_batch.plan import make_plan
from cefr_batch.pretrained import resolve_model, tokenizer_file
from cefr_batch.spec import load_spec

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """A run that can be started: its spec, with the backend settled, and its dataset."""

    spec: RunSpec
    dataset: Dataset


def prepare(
    levels: Sequence[str], *, profile: str | None, overrides: Sequence[str], launcher: Launcher[Any]
) -> list[Prepared]:
    """Read and check what the runs of these levels need. Writes nothing but this machine's cache of models.

    May take minutes where a model must be converted first. Raises one error with every problem of every level.
    """
    findings = _Findings()
    specs = [findings.get(_spec, level, profile, overrides, launcher) for level in levels]
    ready = [spec for spec in specs if spec]
    for backend in dict.fromkeys(spec.backend for spec in ready):
        findings.problems += [Problem("", text) for text in launcher.check(backend)]
    counters = {model: findings.get(_counter, model) for model in dict.fromkeys(spec.model for spec in ready)}
    prepared = []
    for spec in ready:
        dataset, counter = findings.get(load_dataset, spec.data, spec.level), counters[spec.model]
        if dataset and counter:
            cut = make_plan(spec, dataset, counter).problems()
            findings.problems += [Problem(f"level {spec.level}, {problem.where}", problem.what) for problem in cut]
            prepared.append(Prepared(spec, dataset))
    findings.raise_if_any()
    return prepared


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


def _spec(level: str, profile: str | None, overrides: Sequence[str], launcher: Launcher[Any]) -> RunSpec:
    spec = load_spec(level, profile=profile, overrides=overrides)
    if spec.backend != "auto":
        return spec
    return spec.with_backend(next(iter(launcher.backends()), "peft"))


def _counter(model: ModelSpec) -> TokenCounter:
    if Path(model.name).is_absolute():
        resolve_model(model)  # all of it should be there; what the hub has is downloaded by the job
    return TokenCounter(tokenizer_file(model))
