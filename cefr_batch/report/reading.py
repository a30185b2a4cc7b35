"""The comparison in plain sentences: computed, no more than the figures bear."""

from __future__ import annotations

from collections.abc import Sequence

from cefr_batch.report.compare import Comparison, Difference, Row
from cefr_batch.report.document import Inline, Strong, inline, joined
from cefr_batch.report.language import Language
from cefr_batch.report.statistics import Interval


def reading(comparison: Comparison, t: Language) -> list[Inline]:
    """Sentences about the levels that have figures; at least one."""
    row = comparison.row("loss_reduction_percent")
    sentences = [_level(comparison, row, i, t) for i in range(len(comparison.labels))]
    sentences += [*_few_examples(comparison, t), *_seeds(comparison, row, t)]
    if len(comparison.labels) > 1:
        sentences += [*_ranking(comparison, t), *_unlike(comparison, t)]
    return [*sentences, *_leaky(comparison, t), *_after_best(comparison, t)]


def _level(comparison: Comparison, row: Row, i: int, t: Language) -> Inline:
    """What fine-tuning did to one level's loss."""
    spread, found = row.values[i], row.intervals[i]
    if spread is None:
        return ()
    values = {
        "level": inline(Strong(inline(comparison.labels[i]))),
        "share": inline(t.percent(abs(spread.mean))),
        "interval": _interval(found, t),
    }
    if found and not found.excludes_zero:
        return t(
            "{level}: whether fine-tuning changed the loss is not settled: the 95% interval of the reduction, "
            "{interval}, includes 0.",
            **values,
        )
    if spread.mean > 0 and found:
        return t("{level}: fine-tuning lowered the loss by {share} (95% interval {interval}).", **values)
    if spread.mean > 0:
        return t(
            "{level}: fine-tuning lowered the loss by {share}; without the losses of at least two single examples "
            "there is no interval.",
            **values,
        )
    if found:
        return t(
            "{level}: fine-tuning raised the loss by {share} (95% interval of the reduction {interval}).", **values
        )
    return t("{level}: fine-tuning did not lower the loss: it rose by {share}.", **values)


FEW = 20  # examples, below which a percentile bootstrap's intervals are markedly too narrow


def _few_examples(comparison: Comparison, t: Language) -> list[Inline]:
    sizes = [
        (label, len(e.sums.tokens)) for label, e in zip(comparison.labels, comparison.entries, strict=True) if e.sums
    ]
    few = [label for label, n in sizes if n < FEW]
    if not few:
        return []
    return [
        t(
            "{levels}: measured on fewer than {n} examples, for which such intervals are too narrow.",
            levels=joined(few),
            n=t.count(FEW),
        )
    ]


def _seeds(comparison: Comparison, row: Row, t: Language) -> list[Inline]:
    """How much repeated runs differ among themselves."""
    repeated = [
        (label, s) for label, s in zip(comparison.labels, row.values, strict=True) if s and s.deviation is not None
    ]
    return [
        t(
            "{level}: over {n} runs with different seeds the reduction has a standard deviation of {points} points; a "
            "difference to another level that is not much larger may come from the seed.",
            level=Strong(inline(label)),
            n=t.count(s.n),
            points=t.points(s.deviation or 0.0),
        )
        for label, s in repeated
    ]


def _interval(found: Interval | None, t: Language) -> Inline:
    return inline(f"{t.percent(found.low)} … {t.percent(found.high)}" if found else "")


def _ranking(comparison: Comparison, t: Language) -> list[Inline]:
    """Who leads, and which of the differences are larger than the noise of the evaluation."""
    row = comparison.row("loss_reduction_percent")
    leaders = [label for label, best in zip(comparison.labels, row.best, strict=True) if best]
    if len(leaders) > 1:
        first = t("The largest loss reduction is shared by {levels}.", levels=joined(leaders))
    else:
        first = t("The largest loss reduction is that of {levels}.", levels=joined(leaders))
    beyond, within, unknown = ([d for d in comparison.differences if d.exceeds_noise is e] for e in (True, False, None))
    sentences = [first]
    if beyond:
        sentences.append(
            t(
                "Larger than the noise of the evaluation are these differences: {pairs}.",
                pairs=_pairs(beyond, comparison, t),
            )
        )
    if within:
        sentences.append(
            t("Within the noise, so that their order is not settled: {pairs}.", pairs=_pairs(within, comparison, t))
        )
    if unknown:
        sentences.append(
            t(
                "Of these differences it is not known whether they exceed noise, since a run did not store "
                "the losses of at least two single examples: {pairs}.",
                pairs=_pairs(unknown, comparison, t),
            )
        )
    return sentences


def _pairs(differences: Sequence[Difference], comparison: Comparison, t: Language) -> Inline:
    labels = comparison.labels
    return joined(
        [
            t(
                "{higher} over {lower} ({points} points)",
                higher=labels[d.higher],
                lower=labels[d.lower],
                points=t.points(d.points),
            )
            for d in differences
        ]
    )


def _unlike(comparison: Comparison, t: Language) -> list[Inline]:
    """What else differs between the levels, and so forbids to read a difference as the level's."""
    sentences = [
        t(
            "Each level is measured on its own evaluation examples: the figures compare how much each level gained, "
            "not the models on one test."
        )
    ]
    sizes = [result.metrics.train.examples for result in comparison.results]
    if len(set(sizes)) > 1:
        sentences.append(
            t(
                "The levels were trained on {least} to {most} examples; size of data and level cannot be told "
                "apart here.",
                least=t.count(min(sizes)),
                most=t.count(max(sizes)),
            )
        )
    if comparison.differing:
        sentences.append(t("The runs also differ in settings, listed below."))
    if any(len(entry.results) == 1 for entry in comparison.entries):
        sentences.append(
            t(
                "A level with a single run says nothing about how much another seed would change it; "
                "`--set training.seed=1..3` trains several."
            )
        )
    return sentences


def _leaky(comparison: Comparison, t: Language) -> list[Inline]:
    leaky = [
        label
        for label, result in zip(comparison.labels, comparison.results, strict=True)
        if result.metrics.leakage.sentences_percent > 0
    ]
    if not leaky:
        return []
    return [
        t(
            "Evaluation sentences of {levels} were trained on, so these figures overstate what the models do with new "
            "sentences.",
            levels=joined(leaky),
        )
    ]


def _after_best(comparison: Comparison, t: Language) -> list[Inline]:
    """Where the evaluation loss rose again after the best checkpoint."""
    sentences = []
    for label, result in zip(comparison.labels, comparison.results, strict=True):
        m = result.metrics
        last = next((e for e in reversed(m.log) if e.eval_loss is not None), None)
        rise = last.eval_loss - m.best.eval_loss if m.best and last and last.eval_loss is not None else 0.0
        if m.best and last and round(rise, 3) > 0:
            sentences.append(
                t(
                    "{level}: the evaluation loss rose by {x} between the best checkpoint (epoch {best}) and the "
                    "last evaluation (epoch {last}), which can be a sign of overfitting.",
                    level=Strong(inline(label)),
                    x=t.figure(rise, 3),
                    best=t.figure(m.best.epoch),
                    last=t.figure(last.epoch),
                )
            )
    return sentences
