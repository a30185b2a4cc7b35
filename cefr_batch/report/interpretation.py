"""The comparison in plain sentences: computed, no more than the figures bear."""

from __future__ import annotations

from collections.abc import Sequence

from cefr_batch.evaluation.bootstrap import FEW_UNITS, Interval
from cefr_batch.evaluation.statistics import Unit
from cefr_batch.i18n.language import N_
from cefr_batch.records import layout
from cefr_batch.report.compare import Comparison, LevelDifference, Row
from cefr_batch.report.markdown import Markdown, ReportLanguage, joined, strong


def interpret(comparison: Comparison, t: ReportLanguage) -> list[Markdown]:
    """Sentences about the levels that have figures; at least one."""
    row = comparison.row("response_loss_reduction_percent")
    sentences = [_level(comparison, row, i, t) for i in range(len(comparison.labels))]
    sentences += [*_few_examples(comparison, t), *_seeds(comparison, row, t)]
    if len(comparison.labels) > 1:
        sentences += [*_ranking(comparison, t), *_unlike(comparison, t)]
    return [*sentences, *_leaky(comparison, t), *_after_best(comparison, t), *_chosen(comparison, t)]


def _level(comparison: Comparison, row: Row, i: int, t: ReportLanguage) -> Markdown:
    """What fine-tuning did to one level's loss."""
    spread, found = row.values[i], row.intervals[i]
    whole = comparison.row("loss_reduction_percent").values[i]
    if spread is None or whole is None:
        return Markdown()
    values = {
        "level": strong(comparison.labels[i]),
        "share": t.percent(abs(spread.mean)),
        "interval": interval_of(found, t),
        "all": t.percent(whole.mean),
    }
    if found and not found.excludes_zero:
        return t(
            "{level}: whether fine-tuning changed the loss over the response is not certain: the 95% interval of the "
            "reduction, {interval}, includes 0 (over all tokens, including the prompt's: {all}).",
            **values,
        )
    if spread.mean > 0 and found:
        return t(
            "{level}: fine-tuning lowered the loss over the response by {share} (95% interval {interval}; over all tokens, "
            "including the prompt's: {all}).",
            **values,
        )
    if spread.mean > 0:
        return t(
            "{level}: fine-tuning lowered the loss over the response by {share} (over all tokens, including the "
            "prompt's: {all}); an interval needs the stored losses of at least two examples, so there is none.",
            **values,
        )
    if found:
        return t(
            "{level}: fine-tuning raised the loss over the response by {share} (95% interval of the reduction {interval}; "
            "over all tokens, including the prompt's: {all}).",
            **values,
        )
    return t(
        "{level}: fine-tuning did not lower the loss over the response: it rose by {share} (reduction over all tokens, "
        "including the prompt's: {all}).",
        **values,
    )


def _few_examples(comparison: Comparison, t: ReportLanguage) -> list[Markdown]:
    few: dict[Unit, list[str]] = {"example": [], "sentence": []}
    for label, entry in zip(comparison.labels, comparison.entries, strict=True):
        if entry.sums and (units := len(entry.sums.tokens)) < FEW_UNITS:
            few[entry.sums.unit].append(f"{label} ({t.count(units)})")
    texts: dict[Unit, str] = {
        "example": N_("Losses measured on fewer than {n} examples: {levels}; with so few, the intervals are rough."),
        "sentence": N_(
            "Losses measured on fewer than {n} different sentences, which recur in the examples: {levels}; with so few, "
            "the intervals are rough."
        ),
    }
    return [t(texts[unit], levels=joined(labels), n=t.count(FEW_UNITS)) for unit, labels in few.items() if labels]


def _seeds(comparison: Comparison, row: Row, t: ReportLanguage) -> list[Markdown]:
    """How much repeated runs differ among themselves."""
    repeated = [
        (label, s) for label, s in zip(comparison.labels, row.values, strict=True) if s and s.deviation is not None
    ]
    return [
        t(
            "{level}: over {n} runs with different random seeds the reduction has a standard deviation of {points} points; "
            "a difference from another level that is not much larger may come from the seed.",
            level=strong(label),
            n=t.count(s.n),
            points=t.points(s.deviation or 0.0),
        )
        for label, s in repeated
    ]


def interval_of(found: Interval | None, t: ReportLanguage) -> str:
    """The limits of percentages; empty if there are none."""
    return f"{t.percent(found.low)} … {t.percent(found.high)}" if found else ""


def _ranking(comparison: Comparison, t: ReportLanguage) -> list[Markdown]:
    """Who leads, and which of the differences are larger than the noise of the evaluation."""
    row = comparison.row("response_loss_reduction_percent")
    leaders = [label for label, best in zip(comparison.labels, row.best, strict=True) if best]
    if len(leaders) > 1:
        first = t("{levels} share the largest reduction of the loss over the response.", levels=joined(leaders))
    else:
        first = t("{levels} has the largest reduction of the loss over the response.", levels=joined(leaders))
    beyond, within, unknown = (
        [d for d in comparison.differences["response"] if d.exceeds_noise is e] for e in (True, False, None)
    )
    sentences = [first]
    if beyond:
        sentences.append(
            t(
                "These differences are larger than the noise of the evaluation: {pairs}.",
                pairs=_pairs(beyond, comparison, t),
            )
        )
    if within:
        sentences.append(
            t(
                "These are within the noise, so their order is not certain: {pairs}.",
                pairs=_pairs(within, comparison, t),
            )
        )
    if unknown:
        sentences.append(
            t(
                "It is not known whether these differences exceed noise, because a run did not store "
                "the losses of at least two individual examples: {pairs}.",
                pairs=_pairs(unknown, comparison, t),
            )
        )
    return sentences


def _pairs(differences: Sequence[LevelDifference], comparison: Comparison, t: ReportLanguage) -> Markdown:
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


def _unlike(comparison: Comparison, t: ReportLanguage) -> list[Markdown]:
    """What else differs between the levels, so that a difference cannot be attributed to the level alone."""
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
                "The levels were trained on {least} to {most} examples; the effects of data size and level cannot be "
                "told apart here.",
                least=t.count(min(sizes)),
                most=t.count(max(sizes)),
            )
        )
    if comparison.differing:
        sentences.append(t("The runs also differ in settings, listed below."))
    if any(len(entry.results) == 1 for entry in comparison.entries):
        sentences.append(
            t(
                "A level with a single run says nothing about how much another random seed would change it; "
                "`--set training.seed=1..3` trains several."
            )
        )
    return sentences


def _leaky(comparison: Comparison, t: ReportLanguage) -> list[Markdown]:
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


def _after_best(comparison: Comparison, t: ReportLanguage) -> list[Markdown]:
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
                    level=strong(label),
                    x=t.figure(rise, 3),
                    best=t.figure(m.best.epoch),
                    last=t.figure(last.epoch),
                )
            )
    return sentences


def _chosen(comparison: Comparison, t: ReportLanguage) -> list[Markdown]:
    """Whose figures are computed on examples by which something was chosen."""
    early, trials = [], []
    for label, result in zip(comparison.labels, comparison.results, strict=True):
        if layout.study_of(result.metrics.run):
            trials.append(strong(label))
        elif result.metrics.train.stopped_early:
            early.append(strong(label))
    sentences = []
    if trials:
        sentences.append(
            t(
                "{levels}: the settings were chosen by a search on the examples that these figures are computed on (the "
                "validation part of the training data), so the figures are optimistic; those of the evaluation set are not.",
                levels=joined(trials),
            )
        )
    if early:
        sentences.append(
            t(
                "{levels}: the end of training was chosen by the loss on the examples that these figures are computed "
                "on, so the figures are a little optimistic.",
                levels=joined(early),
            )
        )
    return sentences
