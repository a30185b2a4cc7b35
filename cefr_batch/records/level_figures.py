"""How the estimated levels of a model's sentences lie to its target level, and to the sentences of that level."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cefr_batch.records.document import Count, Part

SCALE = ("A1", "A2", "B1", "B2", "C1", "C2")  # the names of the levels 1 … 6
BINS_PER_LEVEL = 4  # of ``TextLevels.histogram``

Bins = Annotated[list[Count], Field(min_length=20, max_length=20)]


class WithInterval(Part):
    """A figure and the limits of its 95 % interval; None: there is none, for example with a single answer."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval, and all of it is on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


class TextLevels(Part):
    """Figures of a set of texts: estimates of their sentences' levels, from 1 (A1) to 6 (C2), and their distances from
    the target. ``texts``: the answers of a model, or evaluation examples; ``measured_texts``: those with at least one
    sentence that has a word; ``units``: how many independent units are resampled. ``sentences``: those with a word.
    ``level_percent``: the share of the sentences whose rounded estimate is A1 … C2; ``histogram``: how many of them lie
    in each quarter of a level, from 1.0 to 6.0. ``rmse``: the root mean square of the distances, in levels;
    ``within_half_percent`` and ``within_one_percent``: the share of the sentences that are at most half a level, and at
    most one level, from the target.
    """

    texts: Count
    measured_texts: Count
    units: Count
    sentences: Count
    mean: WithInterval
    level_percent: dict[str, WithInterval]
    histogram: Bins
    rmse: WithInterval
    within_half_percent: WithInterval
    within_one_percent: WithInterval


class LevelGap(Part):
    """How far what was written is from the references, in levels. ``mean_difference``: above 0 if the written sentences
    measure higher; ``wasserstein``: how far estimates have to be moved on average to make the two distributions equal,
    never less than the size of the mean difference.
    """

    mean_difference: WithInterval
    wasserstein: WithInterval


class LevelFigures(Part):
    """The estimated levels of what one model wrote for one level. None: there was no sentence to measure."""

    target: str
    written: TextLevels | None
    references: TextLevels | None
    gap: LevelGap | None


class LevelFiguresByMode(Part):
    """The figures of one model in both modes."""

    greedy: LevelFigures
    sampled: LevelFigures


class WrittenLevels(Part):
    """The figures of all models that wrote, as in ``WrittenExample``; None: the model was not prompted in that way."""

    baseline: LevelFiguresByMode | None = None
    zero_shot: LevelFiguresByMode | None = None
    few_shot: LevelFiguresByMode | None = None
    tuned: LevelFiguresByMode | None = None
