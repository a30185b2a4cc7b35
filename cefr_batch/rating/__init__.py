"""Human evaluation: a blinded rating form made of runs' sentences, the ratings that come back, and what they say.

``collect_ratings(store, runs)`` is all that a report needs::

    ratings = collect_ratings(store, ["llama1b-b1-unsloth-v1"])
    ratings.raters, ratings.items        # how many people rated how many sentences; 0 where nobody did
    ratings.scores                       # run, model, criterion: mean of 1..5, interval, items, values
    ratings.differences                  # run, criterion: tuned minus baseline on the same words, interval, pairs
    ratings.agreement                    # criterion: Krippendorff's alpha, or None with the reason
"""

from __future__ import annotations

from cefr_batch.rating.criteria import CRITERIA, SCALE
from cefr_batch.rating.scores import Agreement, Difference, Interval, Ratings, Score, collect_ratings

__all__ = ["CRITERIA", "SCALE", "Agreement", "Difference", "Interval", "Ratings", "Score", "collect_ratings"]
