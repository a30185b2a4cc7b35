"""What a run will do: the trainer's arithmetic, truncation, and what the first report's settings come to."""

from __future__ import annotations

import math
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counting import CountedBy

from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import RunSpec, TrainingSpec
from cefr_batch.data import Dataset, Example
from cefr_batch.planning.plan import MicroBatch, Schedule, make_plan, warmup_steps


def spec(*overrides: str) -> RunSpec:
    return load_spec("B1", overrides=overrides)


def training(**changes: Any) -> TrainingSpec:
    return spec().training.model_copy(update=changes)


def dataset(train: int, evaluation: int = 10) -> Dataset:
    """Examples whose output says how many tokens they have."""
    examples = [Example("x", "", str(100 + n)) for n in range(max(train, evaluation))]
    return Dataset(tuple(examples[:train]), tuple(examples[:evaluation]))


count = CountedBy(lambda examples: [int(example.output) for example in examples])


def simulated(examples: int, t: TrainingSpec) -> list[tuple[int, float]]:
    """The trainer's loop, step by step: (global step, epoch) after each optimizer step."""
    batches = len(range(0, examples, t.batch_size))
    chunks = [min(t.gradient_accumulation_steps, batches - b) for b in range(0, batches, t.gradient_accumulation_steps)]
    last = t.max_steps or math.ceil(t.epochs * len(chunks))
    steps: list[tuple[int, float]] = []
    epoch = 0
    while True:
        done = 0
        for chunk in chunks:
            done += chunk
            steps.append((len(steps) + 1, epoch + done / batches))
            if len(steps) == last:
                return steps
        epoch += 1


@pytest.mark.slow
@hypothesis.settings(deadline=None)
@given(
    examples=st.integers(1, 3000),
    batch_size=st.integers(1, 40),
    accumulation=st.integers(1, 12),
    epochs=st.one_of(st.integers(1, 12).map(float), st.floats(0.01, 12)),
    max_steps=st.none() | st.integers(1, 400),
    every=st.integers(1, 100),
)
def test_steps_and_epochs_are_those_of_a_loop(
    examples: int, batch_size: int, accumulation: int, epochs: float, max_steps: int | None, every: int
) -> None:
    t = training(batch_size=batch_size, gradient_accumulation_steps=accumulation, epochs=epochs, max_steps=max_steps)
    loop = simulated(examples, t)
    schedule = Schedule.of(examples, t)
    assert schedule.steps == len(loop)
    assert [schedule.epoch_at(step) for step, _ in loop] == pytest.approx([epoch for _, epoch in loop])
    assert schedule.epochs == pytest.approx(loop[-1][1])
    multiples = [step for step, _ in loop if step % every == 0]
    assert schedule.evaluations(every) == (multiples or [len(loop)])
    assert schedule.checkpoints(every) == [step for step, _ in loop if step % every == 0 or step == len(loop)]


@given(rows=st.integers(1, 40), accumulation=st.integers(1, 12), gpus=st.integers(1, 8), examples=st.integers(1, 3000))
def test_a_smaller_micro_batch_changes_neither_the_effective_batch_nor_the_steps(
    rows: int, accumulation: int, gpus: int, examples: int
) -> None:
    hypothesis.assume(rows * accumulation % gpus == 0)
    t = training(batch_size=rows, gradient_accumulation_steps=accumulation)
    batch: MicroBatch | None = MicroBatch.of(t, gpus)
    assert gpus > 1 or batch == MicroBatch(rows, accumulation)
    while batch:
        assert batch.rows * batch.accumulation * gpus == rows * accumulation
        assert batch.rows <= rows
        split = Schedule(examples, batch.rows * gpus, batch.accumulation, 0)
        assert split.steps_per_epoch == Schedule.of(examples, t).steps_per_epoch
        smaller = batch.halved()
        assert smaller is None or smaller.rows <= batch.rows // 2
        assert (smaller is None) == (batch.rows == 1)
        batch = smaller


def test_the_seeds_run() -> None:
    """1,800 examples: 290 steps, and evaluations at the epochs that were published."""
    plan = make_plan(spec(), dataset(1800, 200), count)
    assert (plan.batches_per_epoch, plan.steps_per_epoch, plan.steps, plan.warmup_steps) == (113, 29, 290, 29)
    assert [(e.step, round(e.epoch, 2)) for e in plan.evaluations] == [
        (50, 1.74),
        (100, 3.46),
        (150, 5.18),
        (200, 6.92),
        (250, 8.64),
    ]
    assert plan.checkpoints == (50, 100, 150, 200, 250, 290)
    assert (plan.effective_batch, plan.epochs) == (64, 10.0)


def test_max_steps_counts_whatever_epochs_says() -> None:
    plan = make_plan(spec("training.max_steps=60", "training.epochs=1"), dataset(1800), count)
    assert (plan.steps, round(plan.epochs, 2)) == (60, 2.07)
    assert [e.step for e in plan.evaluations] == [50]


@pytest.mark.parametrize(
    ("scheduler", "ratio", "steps", "warmup"),
    [("cosine", 0.1, 290, 29), ("cosine", 0.1, 12, 2), ("linear", 0, 290, 0), ("constant", 0.1, 290, 0)],
)
def test_warm_up_is_a_share_rounded_up(scheduler: str, ratio: float, steps: int, warmup: int) -> None:
    assert warmup_steps(steps, training(lr_scheduler=scheduler, warmup_ratio=ratio)) == warmup


@hypothesis.settings(deadline=None)
@given(
    steps=st.integers(1, 5000), ratio=st.floats(0, 0.999), scheduler=st.sampled_from(["cosine", "constant_with_warmup"])
)
def test_warm_up_is_what_transformers_makes_of_the_ratio(steps: int, ratio: float, scheduler: str) -> None:
    from transformers import TrainingArguments

    arguments = TrainingArguments(output_dir="unused", warmup_steps=ratio, use_cpu=True)
    assert warmup_steps(steps, training(lr_scheduler=scheduler, warmup_ratio=ratio)) == arguments.get_warmup_steps(
        steps
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            ["max_steps=1"],
            "its learning rate is 0 and nothing is learned; set training.warmup_ratio to 0, or train for",
        ),
        (
            ["max_steps=3", "warmup_ratio=0.7"],
            "covers all 3 steps, so the learning rate is 0 in the first one and never",
        ),
        (["max_steps=3", "warmup_ratio=0.6"], ""),
        (["max_steps=2"], ""),
        (["max_steps=1", "warmup_ratio=0"], ""),
        (["max_steps=1", "lr_scheduler=constant"], ""),
        (["max_steps=1", "lr_scheduler=constant_with_warmup"], "nothing is learned"),
    ],
)
def test_a_warm_up_of_all_steps_is_warned_of(settings: list[str], says: str) -> None:
    plan = make_plan(spec(*(f"training.{one}" for one in settings)), dataset(1800), count)
    warnings = [str(one) for one in plan.warnings()]
    assert len(warnings) == bool(says)
    assert all(one.startswith("training.warmup_ratio: ") and says in one for one in warnings)


@hypothesis.settings(deadline=None)
@given(
    steps=st.integers(1, 40),
    ratio=st.floats(0, 0.999),
    scheduler=st.sampled_from(["cosine", "linear", "constant", "constant_with_warmup"]),
)
def test_it_is_warned_of_where_transformers_never_gets_to_the_learning_rate(
    steps: int, ratio: float, scheduler: str
) -> None:
    import torch
    from transformers import TrainingArguments, get_scheduler

    overrides = (f"max_steps={steps}", f"warmup_ratio={ratio}", f"lr_scheduler={scheduler}")
    plan = make_plan(spec(*(f"training.{one}" for one in overrides)), dataset(1800), count)
    arguments = TrainingArguments(output_dir="unused", warmup_steps=ratio, use_cpu=True)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = get_scheduler(scheduler, optimizer, arguments.get_warmup_steps(steps), steps)
    rates = []
    for _ in range(steps):  # as in the trainer: a step, then the next one's rate
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    assert bool(plan.warnings()) == (max(rates) < 1)
    assert any("nothing is learned" in one.what for one in plan.warnings()) == (max(rates) == 0)


def test_tokens_are_counted_as_they_are_trained_on() -> None:
    """Lengths 100 to 109; cut at 104, two whole passes."""
    cut = spec("training.max_length=104", "data.allow_truncation=true", "training.epochs=2", "training.batch_size=1")
    plan = make_plan(cut, dataset(10, 3), count)
    assert plan.train.kept_tokens == 100 + 101 + 102 + 103 + 6 * 104
    assert plan.total_tokens == 2 * plan.train.kept_tokens
    assert plan.longest_tokens == 109
    assert (plan.train.truncated, plan.eval.truncated) == (5, 0)
    assert plan.problems() == []


def test_only_the_evaluated_examples_count_as_such() -> None:
    plan = make_plan(spec("evaluation.max_examples=8"), dataset(100, 10), count)
    assert (plan.eval.examples, plan.evaluated_examples) == (10, 8)
    assert make_plan(spec("evaluation.max_examples=80"), dataset(100, 10), count).evaluated_examples == 10


def test_truncation_is_a_problem_that_says_how_many_of_what_and_what_to_change() -> None:
    plan = make_plan(spec("training.max_length=104"), dataset(1200, 7), count)
    (problem,) = plan.problems()
    assert str(problem) == (
        "training.max_length: 104 tokens would cut 1,195 of 1,200 training examples and 2 of 7 evaluation examples "
        "(the longest has 1299); raise training.max_length to 1299, or set data.allow_truncation to true"
    )
    files = spec("training.max_length=104", "data.train=/t.json", "data.eval=/e.json")
    (problem,) = make_plan(files, dataset(6, 2), count).problems()
    assert "cut 1 of 6 training examples of /t.json (the longest has 105);" in str(problem)
    assert make_plan(spec("training.max_length=105"), dataset(6, 2), count).problems() == []
