"""Human evaluation: a blinded rating form made of runs' sentences, the ratings that come back, and what they say.

``collect_ratings(store, runs)`` is all that a report needs::

    ratings = collect_ratings(store, ["llama1b-b1-unsloth-v1"])
    ratings.raters, ratings.items        # how many people rated how many sentences; 0 where nobody did
    ratings.scores                       # run, model, criterion: mean of 1..5, interval, items, values
    ratings.differences                  # run, criterion: tuned minus baseline on the same words, interval, pairs
    ratings.agreement                    # criterion: Krippendorff's alpha, or None with the reason
    ratings.levels                       # the sentences' levels by raters, target and estimator; None where not asked
"""

from __future__ import annotations

from cefr_batch.human_eval.criteria import CRITERIA, SCALE
from cefr_batch.human_eval.scores import Agreement, MarkDifference, MeanMark, Ratings, collect_ratings

__all__ = ["CRITERIA", "SCALE", "Agreement", "MarkDifference", "MeanMark", "Ratings", "collect_ratings"]
