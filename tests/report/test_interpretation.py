"""What the report's sentences may not claim: more than the figures beside them show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.report_stores import A1, A2, add_complete, add_examples, add_generation

from cefr_batch.records import layout
from cefr_batch.report.collect import collect
from cefr_batch.report.write import render
from cefr_batch.store.local import LocalStore


def report_of(store: LocalStore) -> str:
    return render(collect(store), "md", "en").decode()


@pytest.mark.parametrize(("last", "said"), [(0.5705, False), (0.5714, False), (0.572, True)])
def test_a_rise_that_would_be_shown_as_0_is_no_sign_of_overfitting(tmp_path: Path, last: float, said: bool) -> None:
    store = LocalStore(tmp_path)
    add_complete(store, "llama1b-a1-peft-v1", "A1", replace(A1, eval_losses=((10, 1.204), (20, 0.571), (30, last))))
    text = report_of(store)
    assert ("overfitting" in text) == said
    assert "rose by 0.000" not in text


def test_the_losses_of_one_example_give_no_interval_and_are_not_said_to_be_missing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for level, figures in (("A1", A1), ("A2", A2)):
        run = f"llama1b-{level.lower()}-peft-v1"
        add_complete(store, run, level, figures)
        add_examples(store, run, [250.0], [60.0], sha256=level)
    text = report_of(store)
    assert text.count("an interval needs the stored losses of at least two examples, so there is none") == 2
    assert "because a run did not store the losses of at least two individual examples: A2 over A1" in text
    assert "95% interval" not in text


def test_samples_are_said_to_be_of_as_many_examples_as_there_are(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    add_complete(store, "llama1b-a1-peft-v1", "A1", A1)
    add_generation(store, "llama1b-a1-peft-v1", "A1")
    assert "the first word of each of the first 2 examples" in report_of(store)


def test_figures_of_examples_that_chose_something_are_said_to_be_optimistic(tmp_path: Path) -> None:
    """An early stop, and a search's trial, which is in no report where it is not named."""
    store = LocalStore(tmp_path)
    run, trial = "llama1b-a1-peft-v1", "llama1b-a2-peft-s1-t3"
    add_complete(store, run, "A1", A1)
    add_complete(store, trial, "A2", A2)
    assert "optimistic" not in report_of(store)
    assert trial not in report_of(store)
    metrics = store.get_json(key := layout.run_key(run, layout.METRICS))
    metrics["train"]["stopped_early"] = {"evaluations": 2, "planned_steps": 99}
    store.put_json(key, metrics)
    text = report_of(store)
    assert "A1**: the end of training was chosen by the loss on the examples that" in text
    assert text.count("optimistic") == 1
    named = render(collect(store, runs=[trial]), "md", "en").decode()
    assert "A2**: the settings were chosen by a search on the examples that" in named
    assert "olduğundan iyi görünür" in render(collect(store, runs=[trial]), "md", "tr").decode()
