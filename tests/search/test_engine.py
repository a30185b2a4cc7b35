"""What a search draws and which trials it keeps: pure functions, compared with Optuna used as its own documentation does."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cefr_batch.config.sweep import parse_choices
from cefr_batch.errors import CefrBatchError
from cefr_batch.search.halving import promoted, rung_steps
from cefr_batch.search.sampling import Tried, combinations, importances, propose

SPACE = parse_choices(["lora.rank=8,16,32", "training.learning_rate=1e-4..1e-3:log", "lora.alpha=16..64"])
SMALL = parse_choices(["lora.rank=8,16,32", "training.lr_scheduler=cosine,linear", "lora.alpha=16..17"])


def drawn(number: int, space: object = None, sampler: str = "random", seed: int = 0) -> list[tuple[str, ...]]:
    tried: list[Tried] = []
    for _ in range(number):
        tried.append(Tried(propose(space or SPACE, sampler, seed, tried), {}))  # type: ignore[arg-type]
    return [one.overrides for one in tried]


def test_the_same_seed_draws_the_same_trials_and_another_seed_others() -> None:
    first = drawn(9)
    assert drawn(9) == first
    assert drawn(9, seed=1) != first
    assert len(set(first)) == 9
    for rank, rate, alpha in first:
        assert rank in ("lora.rank=8", "lora.rank=16", "lora.rank=32")
        assert 1e-4 <= float(rate.partition("=")[2]) <= 1e-3
        assert 16 <= int(alpha.partition("=")[2]) <= 64


def test_a_trial_follows_from_what_is_recorded_alone() -> None:
    """Whoever goes on with a study, after whatever kill, draws the trial that an undisturbed one would have drawn."""
    tried = [Tried(one, {1: float(n)}, complete=n == 0) for n, one in enumerate(drawn(9))]
    following = [propose(SPACE, "tpe", 0, tried[:n]) for n in range(9, 3, -1)]
    assert following == [propose(SPACE, "tpe", 0, tried[:n]) for n in range(9, 3, -1)]


def test_every_combination_of_a_small_space_is_drawn_once_and_then_none_is_left() -> None:
    assert combinations(SMALL) == 12
    assert combinations(SPACE) is None
    found = drawn(12, SMALL)
    assert len(set(found)) == 12
    with pytest.raises(CefrBatchError, match="begin a new search with fewer --trials"):
        propose(SMALL, "random", 0, [Tried(one, {}) for one in found])


def test_draws_are_those_of_optunas_own_sampler() -> None:
    """The settings of a trial are what Optuna's sampler gives for the same seed and history, not an imitation of it."""
    tried = [Tried(one, {1: (int(one[0][10:]) - 16) ** 2.0}, complete=True) for one in drawn(12)]
    ours = propose(SPACE, "tpe", 3, tried)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=_own_seed(3, 12), n_startup_trials=9))
    distributions = {
        "lora.rank": optuna.distributions.CategoricalDistribution([f"lora.rank={n}" for n in (8, 16, 32)]),
        "training.learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-3, log=True),
        "lora.alpha": optuna.distributions.IntDistribution(16, 64),
    }
    for one in tried:
        rank, rate, alpha = (text.partition("=")[2] for text in one.overrides)
        params = {"lora.rank": f"lora.rank={rank}", "training.learning_rate": float(rate), "lora.alpha": int(alpha)}
        study.add_trial(optuna.create_trial(value=one.values[1], params=params, distributions=distributions))
    params = study.ask(distributions).params
    assert ours == (
        params["lora.rank"],
        f"training.learning_rate={params['training.learning_rate']!r}",
        f"lora.alpha={params['lora.alpha']}",
    )


def _own_seed(seed: int, number: int) -> int:
    import hashlib

    return int.from_bytes(hashlib.sha256(f"{seed} {number} 0".encode()).digest()[:4], "big")


def test_a_search_that_learns_finds_a_better_value_than_one_that_does_not() -> None:
    def best(sampler: str) -> float:
        tried: list[Tried] = []
        for _ in range(30):
            overrides = propose(SPACE, sampler, 5, tried)  # type: ignore[arg-type]
            tried.append(Tried(overrides, {1: abs(float(overrides[1].partition("=")[2]) - 3e-4)}, complete=True))
        return sorted(one.values[1] for one in tried)[len(tried) // 2]

    assert best("tpe") < best("random")


def test_the_setting_that_decides_is_the_important_one() -> None:
    tried = [Tried(one, {1: float(one[2].partition("=")[2])}) for one in drawn(30)]
    found = importances(SPACE, tried)
    assert next(iter(found)) == "lora.alpha"
    assert sum(found.values()) == pytest.approx(1)
    assert importances(SPACE, tried[:1]) == {}
    assert importances(SPACE, []) == {}


def test_the_best_third_goes_on_and_at_least_one() -> None:
    values = {n: float(-n) for n in range(1, 10)}
    assert promoted(values, range(1, 10), 3) == [7, 8, 9]
    assert promoted({2: 1.0, 5: 1.0, 7: 1.0}, [2, 5, 7], 3) == [2], "of equal ones the earliest"
    assert promoted({4: 2.0}, [3, 4], 3) == [4]
    assert promoted({}, [1, 2, 3], 3) == []


@given(steps=st.integers(1, 5000), every=st.integers(1, 300), reduction=st.integers(2, 4), rungs=st.integers(1, 4))
def test_rungs_are_evaluated_steps_that_end_with_the_training(
    steps: int, every: int, reduction: int, rungs: int
) -> None:
    found = rung_steps(steps, every, reduction, rungs)
    assert found[-1] == steps
    assert 1 <= len(found) <= rungs
    assert found == sorted(set(found))
    assert all(step % every == 0 for step in found[:-1])


@settings(max_examples=50)
@given(st.dictionaries(st.integers(1, 30), st.floats(-1e6, 1e6), min_size=1), st.integers(2, 4))
def test_nobody_who_goes_on_is_worse_than_somebody_who_does_not(values: dict[int, float], reduction: int) -> None:
    kept = promoted(values, list(values), reduction)
    assert max(values[one] for one in kept) <= min((values[one] for one in values if one not in kept), default=1e9)
    assert len(kept) == max(len(values) // reduction, 1)


def test_rungs_of_a_training_of_ninety_steps() -> None:
    assert rung_steps(90, 5, 3, 3) == [10, 30, 90]
    assert rung_steps(32, 2, 3, 3) == [4, 12, 32]
    assert rung_steps(8, 8, 3, 3) == [8]
