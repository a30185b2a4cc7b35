"""Stage ``data``: check the fetched dataset against the model's tokenizer."""

from __future__ import annotations

from cefr_batch.data import TokenCounter, leakage, unique_words
from cefr_batch.errors import DataError
from cefr_batch.job.context import StageContext
from cefr_batch.records.stages import DataResult, DatasetFigures, EvaluationSize


def run(context: StageContext) -> DataResult:
    """What the plan promised is what will be trained on. Raises ``DataError`` with every problem."""
    from cefr_batch.models.resolve import tokenizer_file
    from cefr_batch.planning.plan import make_plan

    dataset, spec = context.dataset, context.spec
    plan = make_plan(spec, dataset, TokenCounter(tokenizer_file(spec.model), spec.model.prompt))
    if problems := plan.problems():
        raise DataError(problems)
    figures = DatasetFigures(
        train_examples=len(dataset.train),
        eval_examples=len(dataset.eval),
        unique_words=unique_words(dataset),
        longest_example_tokens=plan.longest_tokens,
        train_sha256=dataset.train_sha256,
        eval_sha256=dataset.eval_sha256,
    )
    return DataResult(
        data=figures,
        evaluation=EvaluationSize(examples=len(context.evaluated), batch_size=spec.evaluation.batch_size),
        leakage=leakage(dataset.train, dataset.eval),
    )
