"""A verdict in words, and the picture beside it."""

from __future__ import annotations

from cefr_batch.evaluation.bootstrap import FEW_UNITS, Interval
from cefr_batch.i18n.language import N_
from cefr_batch.records.level_figures import SCALE, TextLevels, WithInterval
from cefr_batch.report.blocks import Distribution, Share
from cefr_batch.report.interpretation import interval_of
from cefr_batch.report.level_tables import state_word
from cefr_batch.report.markdown import Markdown, ReportLanguage, joined, strong
from cefr_batch.report.verdicts import FEW, Card, Verdict

_TITLES = {
    Verdict.NO_TEXTS: N_("{label}: no generated sentences, so not measured"),
    Verdict.NO_SENTENCES: N_("{label}: wrote nothing that can be measured"),
    Verdict.NO_REFERENCES: N_("{label}: nothing to compare with"),
    Verdict.TOO_FEW: N_("{label}: too few answers to tell"),
    Verdict.BELOW: N_("{label}: writes below its level"),
    Verdict.ABOVE: N_("{label}: writes above its level"),
    Verdict.SLIGHTLY_BELOW: N_("{label}: writes at its level, slightly below it"),
    Verdict.SLIGHTLY_ABOVE: N_("{label}: writes at its level, slightly above it"),
    Verdict.MIXED: N_("{label}: at its level on average, but mixed"),
    Verdict.UNCERTAIN: N_("{label}: not certain whether it writes at its level"),
    Verdict.AT: N_("{label}: writes at its level"),
}
_CONCLUSIONS = {
    Verdict.NO_TEXTS: N_(
        "The run stored no generated sentences (`generation.examples: 0`, or an early version), so their level is not known."
    ),
    Verdict.NO_SENTENCES: N_("The tuned model wrote no numbered sentence, so there is nothing to measure."),
    Verdict.NO_REFERENCES: N_(
        "The level's evaluation sentences are not in the store as the run used them, so there is nothing to compare with."
    ),
    Verdict.TOO_FEW: N_(
        "There are **too few answers or evaluation sentences to tell**; a larger `generation.examples` gives more answers."
    ),
    Verdict.BELOW: N_(
        "So it writes **below its level**, by {size} levels (95% interval {sizes}), but not clearly at another level."
    ),
    Verdict.ABOVE: N_(
        "So it writes **above its level**, by {size} levels (95% interval {sizes}), but not clearly at another level."
    ),
    Verdict.SLIGHTLY_BELOW: N_(
        "So it writes **at its level, slightly below it**: the difference, {gap} levels (95% interval {limits}), is small, "
        "but unlikely to be chance."
    ),
    Verdict.SLIGHTLY_ABOVE: N_(
        "So it writes **at its level, slightly above it**: the difference, {gap} levels (95% interval {limits}), is small, "
        "but unlikely to be chance."
    ),
    Verdict.MIXED: N_(
        "On average it writes at its level (difference {gap} levels, 95% interval {limits}), **but its sentences vary "
        "too much**: too many measure lower, and too many higher."
    ),
    Verdict.UNCERTAIN: N_(
        "Whether it writes at its level is **not certain**: the difference, {gap} levels, has the 95% interval {limits}. "
        "More answers would narrow it (`generation.examples`)."
    ),
    Verdict.AT: N_(
        "So it writes **at its level**: the difference, {gap} levels (95% interval {limits}), is less than half a level and "
        "may be chance."
    ),
}
_NEARER_TO_ANOTHER = {
    Verdict.BELOW: N_(
        "So it writes **below its level**, by {size} levels (95% interval {sizes}): its sentences measure most like those "
        "of {nearest}. **This model writes {nearest}, not {level}.**"
    ),
    Verdict.ABOVE: N_(
        "So it writes **above its level**, by {size} levels (95% interval {sizes}): its sentences measure most like those "
        "of {nearest}. **This model writes {nearest}, not {level}.**"
    ),
}


# Of the words used, and of the answers in the format. Below, a verdict on the level alone misleads.
ENOUGH_PERCENT = 80.0


def title(card: Card, t: ReportLanguage) -> Markdown:
    """The verdict in a few words."""
    if card.verdict is Verdict.NO_RUN:
        return t("{label}: no figures ({state})", label=card.label, state=state_word(card.entry.state, t))
    if card.nearest:
        return t(
            "{label}: writes {nearest}, not {level}", label=card.label, nearest=card.nearest, level=card.entry.level
        )
    return t(_TITLES[card.verdict], label=card.label)


def line(card: Card, t: ReportLanguage) -> Markdown:
    """The verdict, how sure it is, and what training gained, in a line."""
    parts = [Markdown("{}.").format(strong(title(card, t)))]
    if card.figures and card.figures.gap and card.figures.gap.mean_difference.low is not None:
        gap = card.figures.gap.mean_difference
        parts.append(
            t(
                "{gap} levels from the sentences of the level (95% interval {limits}).",
                gap=t.signed(gap.value),
                limits=_limits(gap, t),
            )
        )
    doubts = [*_lacking(card, t), *_alike(card, t), *_rough(card, t)]
    return joined([*parts, *_rated(card, t), *doubts, *_gain(card, t)], " ")


def sentences(card: Card, t: ReportLanguage) -> list[Markdown]:
    """What was measured, what follows from it, and what training gained."""
    figures = card.figures
    found = [*([_measured(card, t)] if figures and figures.written else []), _conclusion(card, t)]
    found += [*_rated(card, t), *_lacking(card, t), *_alike(card, t), *_rough(card, t)]
    if figures and figures.gap and figures.gap.wasserstein.low is not None:
        distance = figures.gap.wasserstein
        found.append(
            t(
                "The two distributions are {distance} levels apart (Wasserstein distance; 95% interval {limits}).",
                distance=t.figure(distance.value),
                limits=_limits(distance, t),
            )
        )
    return [*found, *_gain(card, t), *_kept(card, t)]


def _rated(card: Card, t: ReportLanguage) -> list[Markdown]:
    """What people said of the level of its sentences; nothing where nobody was asked."""
    found = []
    for one in card.rated:
        gap, values = one.mean_difference, {"n": t.count(one.sentences), "level": one.level}
        values["gap"] = t.signed(gap.value)
        if gap.interval is None:
            message = N_("The levels that people gave to {n} of its sentences differ from {level} by {gap} on average.")
        else:
            values["limits"] = f"{t.figure(gap.interval.low)} … {t.figure(gap.interval.high)}"
            message = N_(
                "The levels that people gave to {n} of its sentences differ from {level} by {gap} on average (95% interval "
                "{limits})."
            )
        found.append(t(message, **values))
    return found


def _rough(card: Card, t: ReportLanguage) -> list[Markdown]:
    """What a verdict on few answers is worth; nothing where there is none, or where there are enough."""
    figures = card.figures
    if not (figures and figures.written and figures.gap) or card.verdict is Verdict.TOO_FEW:
        return []
    answers = figures.written.units
    if answers >= FEW_UNITS:
        return []
    return [
        t(
            "This rests on only {n} answers, so it is rough: other answers may give another verdict.",
            n=t.count(answers),
        )
    ]


def _alike(card: Card, t: ReportLanguage) -> list[Markdown]:
    """The levels that the verdict does not tell from the model's own."""
    return [
        t(
            "Sentences of {other} measure less than half a level from those of {level}, so the report cannot tell the "
            "two levels apart.",
            other=other,
            level=card.entry.level,
        )
        for other in card.alike
    ]


def _lacking(card: Card, t: ReportLanguage) -> list[Markdown]:
    """Whether the tuned model fails at the task itself, whatever the level of its sentences; nothing without answers."""
    written = card.entry.result and card.entry.result.metrics.generation
    if not written:
        return []
    after = written.tuned.greedy
    found = []
    if after.words_used_percent is not None and after.words_used_percent < ENOUGH_PERCENT:
        found.append(
            t("**It uses only {share} of the words that it was given.**", share=t.percent(after.words_used_percent))
        )
    if after.well_formed_percent is not None and after.well_formed_percent < ENOUGH_PERCENT:
        share = t.percent(after.well_formed_percent)
        found.append(t("**Only {share} of its answers have the format of the examples.**", share=share))
    return found


def _kept(card: Card, t: ReportLanguage) -> list[Markdown]:
    """How much of the task the model does, before and after training; nothing without answers of both."""
    written = card.entry.result and card.entry.result.metrics.generation
    if not written:
        return []
    before, after = written.baseline.greedy, written.tuned.greedy
    if None in (
        before.well_formed_percent,
        after.well_formed_percent,
        before.words_used_percent,
        after.words_used_percent,
    ):
        return []
    return [
        t(
            "Answers in the format of the examples: {format_before} → {format_after}; "
            "words used: {words_before} → {words_after}.",
            format_before=t.percent(before.well_formed_percent),
            format_after=t.percent(after.well_formed_percent),
            words_before=t.percent(before.words_used_percent),
            words_after=t.percent(after.words_used_percent),
        )
    ]


def _measured(card: Card, t: ReportLanguage) -> Markdown:
    figures, untrained = card.figures, card.untrained and card.untrained.written
    parts = []
    if figures and figures.written:
        parts.append(t("the model's sentences measure {mean}", mean=_mean(figures.written, t)))
    if figures and figures.references:
        parts.append(t("those of the level {mean}", mean=_mean(figures.references, t)))
    if not untrained:
        parts.append(t("the untrained model wrote none that can be measured"))
    elif untrained.units < FEW:
        few = N_("the untrained model's {mean} (few answers could be measured: {n} of {all})")
        counts = {"n": t.count(untrained.measured_texts), "all": t.count(untrained.texts)}
        parts.append(t(few, mean=_mean(untrained, t), **counts))
    else:
        parts.append(t("the untrained model's {mean}", mean=_mean(untrained, t)))
    return Markdown("{}: {}.").format(strong(card.label), joined(parts, "; "))


def _mean(texts: TextLevels, t: ReportLanguage) -> Markdown:
    mean = strong(t.figure(texts.mean.value))
    if texts.mean.low is None:
        return mean
    return t("{value} (95% interval {limits})", value=mean, limits=_limits(texts.mean, t))


def _conclusion(card: Card, t: ReportLanguage) -> Markdown:
    message = _NEARER_TO_ANOTHER[card.verdict] if card.nearest else _CONCLUSIONS[card.verdict]
    gap = card.figures.gap.mean_difference if card.figures and card.figures.gap else WithInterval(value=0.0)
    sizes = sorted(abs(end) for end in (gap.low or 0.0, gap.high or 0.0))
    return t(
        message,
        gap=t.signed(gap.value),
        limits=_limits(gap, t),
        size=t.figure(abs(gap.value)),
        sizes=f"{t.figure(sizes[0])} … {t.figure(sizes[1])}",
        nearest=card.nearest,
        level=card.entry.level,
    )


def _limits(figure: WithInterval, t: ReportLanguage) -> str:
    return f"{t.figure(figure.low)} … {t.figure(figure.high)}"


def _gain(card: Card, t: ReportLanguage) -> list[Markdown]:
    """What training did to the loss over the response; nothing where there are no figures."""
    if card.gain is None:
        return []
    values = {
        "before": t.figure(card.gain.before),
        "after": t.figure(card.gain.after),
        "share": t.percent(abs(card.gain.percent)),
        "interval": _of_reduction(card.gain.interval, t),
    }
    if card.gain.percent >= 0:
        return [t("Loss over the response: {before} → {after}, {share} lower{interval}.", **values)]
    return [t("Loss over the response: {before} → {after}, **{share} higher**{interval}.", **values)]


def _of_reduction(found: Interval | None, t: ReportLanguage) -> str:
    return t(" (95% interval of the reduction {interval})", interval=interval_of(found, t)) if found else ""


def distribution(card: Card, t: ReportLanguage) -> Distribution | None:
    """Of the model's sentences and those of the level; None without both."""
    figures = card.figures
    if not (figures and figures.written and figures.references):
        return None
    sides = (
        (t.text("the model's sentences"), figures.written),
        (t.text("the level's own sentences"), figures.references),
    )
    described = [_described(name, texts, t) for name, texts in sides]
    shares = tuple(
        Share(name, tuple(n / texts.sentences for n in texts.histogram), outline=texts is figures.references)
        for name, texts in sides
    )
    return Distribution(
        t.text("Estimated levels of the sentences, {level}", level=card.label), " ".join(described), shares, card.label
    )


def _described(name: str, texts: TextLevels, t: ReportLanguage) -> str:
    """For readers who cannot see the picture."""
    parts = (f"{level} {t.percent(texts.level_percent[level].value)}" for level in SCALE)
    return f"{name}: {', '.join(parts)}."
