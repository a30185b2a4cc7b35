"""The arithmetic of the results, in one place: the job computes with it, the report and the tests prove it."""

from __future__ import annotations

import math


def perplexity(loss: float) -> float:
    """``exp(loss)`` of a mean negative log-likelihood per token in nats. Raises ``ValueError`` if it is not finite."""
    if not math.isfinite(loss):
        raise ValueError(
            f"there is no perplexity of a loss of {loss}; the training probably diverged: lower training.learning_rate"
        )
    return math.exp(loss)


def reduction_percent(before: float, after: float) -> float:
    """``100 * (1 - after / before)``: how much smaller ``after`` is; negative if it grew.

    Raises ``ValueError`` unless ``before`` is positive and both are finite.
    """
    if not (math.isfinite(before) and math.isfinite(after)):
        raise ValueError(
            f"the loss went from {before} to {after}: training diverged; lower training.learning_rate and train again"
        )
    if before <= 0:
        raise ValueError(f"the loss before training is {before}, and must be above 0; check the evaluation examples")
    return 100 * (1 - after / before)
