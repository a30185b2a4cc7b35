"""Stage ``generate``: what both models write for the same evaluation examples, and what can be counted in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cefr_batch.data import Example, PromptFormat, words_in
from cefr_batch.data.prompts import plain_words_format, shots_of
from cefr_batch.errors import ChatTemplateError, NoChatTemplate
from cefr_batch.job.context import StageContext, within_memory
from cefr_batch.records.level_figures import WrittenLevels
from cefr_batch.records.stages import GenerateResult
from cefr_batch.records.texts import (
    Answers,
    Baseline,
    GenerationFigures,
    GenerationRecord,
    Mode,
    Quality,
    QualityByMode,
    WhyMissing,
    WrittenExample,
)

log = logging.getLogger(__name__)


@within_memory("generation")
def run(context: StageContext) -> GenerateResult:
    """The tuned model answers, and the same model without its adapter: asked in the same way, and in those that
    ``generation.baselines`` names."""
    examples = context.evaluated[: context.spec.generation.examples]
    if not examples:
        return GenerateResult()
    model = context.tuned_model
    others, missing = _baselines(context, model, examples)
    writer = _Writer(context, model, examples, ways=2 + len(others))
    model.unmerge_adapter()  # not by disable_adapter, which would do it in a forward pass that may run out of memory
    with model.disable_adapter():
        by_model = {"baseline": writer.answers(context.prompts)}
        by_model |= {name: writer.answers(prompts) for name, prompts in others.items()}
    model.merge_adapter()
    by_model["tuned"] = writer.answers(context.prompts)
    written = [
        WrittenExample(index=i, words=words_in(example), **{name: answers[i] for name, answers in by_model.items()})
        for i, example in enumerate(examples)
    ]
    return GenerateResult(
        generation=_figures(context, written, by_model, missing),
        levels=_levels(context, written),
        texts=GenerationRecord(examples=written),
    )


def _baselines(
    context: StageContext, model: Any, examples: Sequence[Example]
) -> tuple[dict[Baseline, PromptFormat], dict[Baseline, WhyMissing]]:
    """How the untrained model is asked besides, and why it cannot be in the other ways that the spec names."""
    from cefr_batch.evaluation.generation import too_long

    shots: dict[Baseline, Sequence[Example]] = {"zero_shot": (), "few_shot": shots_of(context.dataset.train)}
    found: dict[Baseline, PromptFormat] = {}
    missing: dict[Baseline, WhyMissing] = {}
    for name in dict.fromkeys(context.spec.generation.baselines):
        try:
            prompts = plain_words_format(context.model_path, context.spec.level, shots[name])
            why = too_long(model, context.tokenizer, prompts, examples, context.spec.generation.max_new_tokens)
        except ChatTemplateError as exc:
            missing[name] = "no_chat_template" if isinstance(exc, NoChatTemplate) else "unusable_chat_template"
            why = str(exc)
        else:
            if why:
                missing[name] = "too_long"
            else:
                found[name] = prompts
        if why:
            log.warning("warning: the untrained model is not asked %s: %s", name.replace("_", "-"), why)
    return found, missing


@dataclass
class _Writer:
    """A model that answers the same examples in several ways, which count as one in the job's progress."""

    context: StageContext
    model: Any
    examples: Sequence[Example]
    ways: int
    done: int = 0

    def answers(self, prompts: PromptFormat) -> list[Answers]:
        """What the model answers now."""

        def count(done: int, of_way: int) -> None:
            self.context.progress.count(self.done + done, self.ways * of_way)

        count(0, 2 * len(self.examples))  # the first batch takes a while
        given = answers(self.context, self.model, self.examples, prompts, count)
        self.done += 2 * len(self.examples)
        return given


def answers(
    context: StageContext,
    model: Any,
    examples: Sequence[Example],
    prompts: PromptFormat,
    on_batch: Callable[[int, int], None],
) -> list[Answers]:
    """A model's answer to each example, greedily and sampled, as the run's spec says. ``on_batch(answers done, of)`` is
    called after each batch."""
    from cefr_batch.evaluation.generation import Sampling, generate

    settings = context.spec.generation

    cut: dict[int, list[Mode]] = {}

    def written(mode: Mode, sampling: Sampling | None, before: int) -> list[str]:
        return generate(
            model,
            context.tokenizer,
            prompts,
            examples,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            sampling=sampling,
            on_batch=lambda done, of: on_batch(before + done, 2 * of),
            on_cut=lambda i: cut.setdefault(i, []).append(mode),
        )

    greedy = written("greedy", None, 0)
    sampled = written("sampled", Sampling(settings.temperature, settings.top_p, settings.seed), len(examples))
    pairs = enumerate(zip(greedy, sampled, strict=True))
    return [Answers(greedy=one, sampled=other, cut=cut.get(i, [])) for i, (one, other) in pairs]


def _figures(
    context: StageContext,
    written: Sequence[WrittenExample],
    models: Iterable[str],
    missing: dict[Baseline, WhyMissing],
) -> GenerationFigures:
    from cefr_batch.evaluation.text_quality import Answer, quality

    def of(model: str, mode: Mode) -> Quality:
        given = [(tuple(one.words), getattr(one, model)) for one in written]
        answers = [Answer(words, getattr(texts, mode), mode in texts.cut) for words, texts in given]
        return quality(answers, context.train_sentences, context.spec.level)

    by_model = {model: QualityByMode(greedy=of(model, "greedy"), sampled=of(model, "sampled")) for model in models}
    return GenerationFigures(**by_model, missing=missing)


def _levels(context: StageContext, written: Sequence[WrittenExample]) -> WrittenLevels:
    from cefr_batch.evaluation.level_figures import written_levels

    data = context.dataset
    return written_levels(written, data.eval, context.spec.level, key=data.eval_sha256)
