"""A complete run's model, and its base model, on other sets of examples: the part that computes, in a process of its own.

It writes a document for each set as soon as that is done, so that a job that is killed loses the set under way alone.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from cefr_batch import __version__
from cefr_batch.data import Example, read_dataset, words_in
from cefr_batch.data.examples import numbered_lines, sentences_in
from cefr_batch.job.context import StageContext, within_memory
from cefr_batch.job.stages import generate
from cefr_batch.records import layout
from cefr_batch.records.document import read_file, write_file
from cefr_batch.records.evaluations import AnsweredExample, EvaluationRequest, EvaluationTask, SetEvaluation
from cefr_batch.records.level_figures import LevelFigures, LevelFiguresByMode
from cefr_batch.records.timestamps import now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cefr_batch.evaluation.losses import Evaluation

EVALUATIONS = "evaluations"  # the process's name, beside those of the stages


def run_evaluations(context: StageContext) -> None:
    """Do what the request in the work folder asks. The base model is loaded once: it comes first, before the adapter is
    merged into its weights."""
    tasks = read_file(EvaluationRequest, context.work.path(layout.EVALUATION_REQUEST)).tasks
    for task in sorted(tasks, key=lambda task: task.model != "base"):
        context.progress.begin(f"{task.model} on {task.label}")
        evaluation = _evaluated(context, task)
        write_file(context.work.path(layout.evaluation_name(task.name)), evaluation)


def _evaluated(context: StageContext, task: EvaluationTask) -> SetEvaluation:
    started = time.monotonic()
    model = context.base_model if task.model == "base" else context.tuned_model
    evaluation = read_dataset(context.work.sets / task.dataset).eval
    examples = evaluation[: task.examples]
    found = _losses(context, model, examples)
    texts = answered(context, model, examples[: task.answered]) if task.answered else []
    return SetEvaluation(
        run=context.work.root.name,
        task=task,
        losses=found.losses,
        scores=found.examples,
        texts=texts,
        levels=levels_of(context, texts, evaluation, task.eval_sha256) if texts else None,
        seconds=round(time.monotonic() - started, 3),
        code_version=__version__,
        complete_at=now(),
    )


@within_memory("evaluation")
def _losses(context: StageContext, model: Any, examples: Sequence[Example]) -> Evaluation:
    return context.losses(model, context.encoded(examples))


@within_memory("generation")
def answered(context: StageContext, model: Any, examples: Sequence[Example]) -> list[AnsweredExample]:
    """What a model answers to examples, as the run's spec says."""
    answers = generate.answers(context, model, examples, context.prompts, context.progress.count)
    pairs = enumerate(zip(examples, answers, strict=True))
    return [AnsweredExample(index=i, words=words_in(one), answers=answer) for i, (one, answer) in pairs]


def levels_of(
    context: StageContext, texts: Sequence[AnsweredExample], evaluation: Sequence[Example], key: str
) -> LevelFiguresByMode:
    """The levels of what a model answered, beside those of the set's own sentences. ``key``: of the random draws."""
    from cefr_batch.evaluation.level_figures import level_figures

    references = [sentences_in(example) for example in evaluation]

    def of(answers: Sequence[str]) -> LevelFigures:
        written = [[text for _, text in numbered_lines(answer) if text] for answer in answers]
        return level_figures(written, references, context.spec.level, key=key)

    return LevelFiguresByMode(
        greedy=of([one.answers.greedy for one in texts]), sampled=of([one.answers.sampled for one in texts])
    )
