"""Successive halving: trials are compared at rungs, and the best share of them goes on.

Optuna's ``SuccessiveHalvingPruner`` decides as each trial arrives, so its choices depend on the order in which jobs end,
which preemptions change; a study must come out the same whatever was killed. Here a round's trials are compared once all
have come to a rung (Jamieson and Talwalkar 2016, "Non-stochastic best arm identification", algorithm 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def rung_steps(steps: int, every: int, reduction: int, rungs: int) -> list[int]:
    """The steps after which a training of ``steps`` is compared, each ``reduction`` times as far as the one before, its end
    last. Each but the last is one that is evaluated (``every`` so many steps), so there may be fewer than ``rungs``."""
    found = [steps]
    for power in range(1, rungs):
        step = -(-steps // reduction**power)
        step = -(-step // every) * every
        if step < found[0]:
            found.insert(0, step)
    return found


def promoted(values: Mapping[int, float], trials: Sequence[int], reduction: int) -> list[int]:
    """Those of the ``trials`` at a rung that go on: the lowest ``values``, one for every ``reduction`` trials, at least one
    of those with a value. The earlier trial wins a tie."""
    best = sorted(values, key=lambda trial: (values[trial], trial))
    return sorted(best[: max(len(trials) // reduction, 1)])
