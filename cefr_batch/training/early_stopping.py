"""When training stops before its last step. It is computed from the trainer's history, which every checkpoint carries, so a
resumed run stops where an undisturbed one does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def stops_early(state: Any, patience: int | None) -> bool:
    """Whether ``patience`` evaluations brought no lower loss; never where that is None. ``state``: the trainer's."""
    losses = [row["eval_loss"] for row in state.log_history if "eval_loss" in row]
    return patience is not None and since_best(losses) >= patience


def since_best(losses: Sequence[float]) -> int:
    """How many losses follow the first one of the lowest; 0 without any."""
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0
