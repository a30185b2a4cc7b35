"""The settings of the next trial, drawn by Optuna from what earlier trials found."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

from cefr_batch.config.sweep import Choice, Range, Values
from cefr_batch.errors import CefrBatchError
from cefr_batch.records.study import Sampler

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_MOST = 100_000  # combinations that are listed
_DRAWS = 50  # until a search gives up to find settings that no trial had
_STARTUP = 9  # trials that are drawn at random, before there is anything to learn from


@dataclass(frozen=True)
class Tried:
    """A trial: its settings as ``--set`` takes them, the objective at each rung that it came to (by the rung's number, from
    1), and whether it came to the end of training. No value: it failed, or nothing is known yet."""

    overrides: tuple[str, ...]
    values: Mapping[int, float]
    complete: bool = False


def load_optuna() -> Any:
    """Optuna, which logs warnings alone then. Raises ``CefrBatchError`` where it is not installed."""
    try:
        import optuna
    except ModuleNotFoundError as exc:
        raise CefrBatchError(
            f"a search needs {exc.name}, which is not installed; run: pip install 'cefr-batch[search]'"
        ) from exc
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def combinations(space: Sequence[Choice]) -> int | None:
    """How many different trials there can be; None: no end of them."""
    sizes: list[int] = []
    for choice in space:
        if isinstance(choice, Range) and not choice.whole:
            return None
        sizes.append(int(choice.high - choice.low) + 1 if isinstance(choice, Range) else len(choice.overrides))
    return prod(sizes)


def propose(space: Sequence[Choice], sampler: Sampler, seed: int, earlier: Sequence[Tried]) -> tuple[str, ...]:
    """The settings of the trial that follows these: others than theirs.

    Deterministic: each trial has random numbers of its own, from the study's ``seed`` and the trial's number. Raises
    ``CefrBatchError`` where none are left.
    """
    optuna = load_optuna()
    taken = {one.overrides for one in earlier}
    distributions = {choice.key: _distribution(choice) for choice in space}
    frozen = [_frozen(space, distributions, one) for one in earlier]
    for draw in range(_DRAWS):
        numbers = hashlib.sha256(f"{seed} {len(earlier)} {draw}".encode()).digest()
        own_seed = int.from_bytes(numbers[:4], "big")
        study = optuna.create_study(sampler=_sampler(sampler, own_seed))
        study.add_trials(frozen)
        asked = study.ask(distributions).params
        found = tuple(_override(choice, asked[choice.key]) for choice in space)
        if found not in taken:
            return found
    return _untried(space, taken, own_seed)


def _untried(space: Sequence[Choice], taken: Collection[tuple[str, ...]], number: int) -> tuple[str, ...]:
    """One of the few settings that are left. Raises ``CefrBatchError`` where there are none."""
    if (combinations(space) or _MOST) < _MOST:
        listed = [choice.overrides if isinstance(choice, Values) else _all_values(choice) for choice in space]
        if left := [one for one in product(*listed) if one not in taken]:
            return left[number % len(left)]
    raise CefrBatchError(
        f"{_DRAWS} draws gave only settings that were tried already; begin a new search with fewer --trials, or with more "
        "values or wider ranges in --set"
    )


def _all_values(choice: Range) -> list[str]:
    return [choice.override(value) for value in range(int(choice.low), int(choice.high) + 1)]


def importances(space: Sequence[Choice], tried: Sequence[Tried]) -> dict[str, float]:
    """How much each setting matters for the objective at the first rung, to which all trials came: shares of 1, largest
    first, by Optuna's own evaluator. Empty where there are too few trials to tell."""
    optuna = load_optuna()
    distributions = {choice.key: _distribution(choice) for choice in space}
    study = optuna.create_study()
    first = [Tried(one.overrides, {1: one.values[1]}, complete=True) for one in tried if 1 in one.values]
    study.add_trials([_frozen(space, distributions, one) for one in first])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # that there are too few trials is one
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # what it is up to Optuna 4
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            found: dict[str, float] = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (RuntimeError, ValueError, UserWarning):  # no trials, too few, or all with the same value
        return {}
    return found


def _sampler(name: Sampler, seed: int) -> Any:
    optuna = load_optuna()
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP)


def _distribution(choice: Choice) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(choice, Values):
        return CategoricalDistribution(choice.overrides)
    if choice.whole:
        return IntDistribution(int(choice.low), int(choice.high), log=choice.log)
    return FloatDistribution(choice.low, choice.high, log=choice.log)


def _override(choice: Choice, value: Any) -> str:
    return str(value) if isinstance(choice, Values) else choice.override(value)


def _frozen(space: Sequence[Choice], distributions: Mapping[str, BaseDistribution], one: Tried) -> FrozenTrial:
    """A recorded trial as Optuna knows it: complete, stopped at a rung, or without a value."""
    from optuna.trial import TrialState, create_trial

    params: dict[str, Any] = {}
    for choice, override in zip(space, one.overrides, strict=True):
        text = override.partition("=")[2]
        params[choice.key] = override if isinstance(choice, Values) else int(text) if choice.whole else float(text)
    value = one.values[max(one.values)] if one.complete else None
    state = TrialState.COMPLETE if one.complete else TrialState.PRUNED if one.values else TrialState.FAIL
    return create_trial(
        state=state, value=value, params=params, distributions=dict(distributions), intermediate_values=dict(one.values)
    )
