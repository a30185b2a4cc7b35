"""What came out of a study: importance, the best settings as a job file, a document for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from cefr_batch.config.load import changed_spec, load_spec
from cefr_batch.config.sweep import parse_choices
from cefr_batch.errors import NotFound
from cefr_batch.runner.study import StudyState
from cefr_batch.search.sampling import importances
from cefr_batch.store.base import Store


def importance(state: StudyState) -> dict[str, float]:
    """How much each setting matters, largest share first; empty where that cannot be told. Earlier studies did not record
    it."""
    return dict(state.importance) or importances(parse_choices(state.record.space), [one.tried for one in state.trials])


def best_job_file(state: StudyState) -> str:
    """The best trial's settings as a job file: all that differ from those of the level's own file. The backend is left to
    the cluster. Raises ``NotFound`` while no trial has won."""
    record, best = state.record, state.best
    if best is None or best.last_value is None:
        raise NotFound(
            f"{record.study} has no best trial yet; `cefr-batch search --resume {record.study} --wait` goes on with it"
        )
    chosen = changed_spec(record.settings, best.overrides).model_dump(mode="json", exclude={"backend", "level"})
    own = load_spec(record.level).model_dump(mode="json", exclude={"backend", "level"})
    heading = [
        f"# Chosen by {record.study}, trial {best.trial} of {record.trials}: {record.objective} {best.last_value:.4f} on a",
        "# validation part of the training data. The lowest of several is optimistic.",
        "# Use it: cefr-batch submit --level LEVEL --profile THIS_FILE".replace("LEVEL", record.level),
    ]
    tree = {"extends": record.level.lower(), "level": record.level, **_differences(chosen, own)}
    return "\n".join([*heading, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)])


def _differences(chosen: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What of the settings differs, part by part."""
    found: dict[str, Any] = {}
    for key, value in chosen.items():
        other = own.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            if inner := _differences(value, other):
                found[key] = inner
        elif value != other:
            found[key] = value
    return found


def study_json(store: Store, state: StudyState) -> dict[str, Any]:
    """One document for ``search show --json``: ``study_figures``, and the states of the trials' runs."""
    figures = study_figures(state)
    runs = [
        {**one, "state": trial.run.state.value if trial.run else None}
        for one, trial in zip(figures["runs"], state.trials, strict=True)
    ]
    return {"store": store.url, **figures, "importance": importance(state), "runs": runs}


def study_figures(state: StudyState) -> dict[str, Any]:
    """A study as its documents tell it, for other programs. ``values``: of the objective, by step."""
    record = state.record
    return {
        **record.model_dump(mode="json", exclude={"settings"}),
        "trained_steps": state.trained_steps,
        "grid_steps": state.grid_steps,
        "decided": state.decided,
        "best": state.best.run_name if state.best else None,
        "importance": dict(state.importance),
        "runs": [
            {
                "run": one.run_name,
                "overrides": list(one.overrides),
                "values": {str(record.steps[rung - 1]): value for rung, value in one.values.items()},
                "stopped": one.stopped,
                "failed": one.failed,
            }
            for one in state.trials
        ],
    }
