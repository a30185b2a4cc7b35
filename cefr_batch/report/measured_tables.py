"""What was measured of the levels of texts: by model, by target and estimated level, and the instrument's own error."""

from __future__ import annotations

from collections.abc import Iterator

from cefr_batch.evaluation.level_estimator import level_estimator
from cefr_batch.i18n.language import N_, NONE
from cefr_batch.records.level_figures import SCALE, LevelFigures, TextLevels, WithInterval, WrittenLevels
from cefr_batch.report.blocks import Table
from cefr_batch.report.collect import Report
from cefr_batch.report.generation_tables import OTHER_WAYS
from cefr_batch.report.markdown import Inline, Markdown, ReportLanguage, strong
from cefr_batch.report.verdicts import FEW

MODELS = {
    "baseline": N_("Untrained, asked as in training"),
    **OTHER_WAYS,
    "tuned": N_("Tuned"),
}  # in the order of the tables

_NO_TEXTS: tuple[Inline, ...] = (NONE, "0", *[NONE] * 6)


def measured(report: Report) -> list[tuple[str, WrittenLevels]]:
    """The label and the figures of each level whose models' sentences were measured."""
    return [
        (report.label(entry), entry.result.levels) for entry in report.entries if entry.result and entry.result.levels
    ]


def figures_of(levels: WrittenLevels, mode: str = "greedy") -> Iterator[tuple[str, LevelFigures]]:
    """Each model that wrote, by its key, in the order of the tables."""
    for model in MODELS:
        if found := getattr(levels, model):
            yield model, getattr(found, mode)


def by_model(report: Report, t: ReportLanguage) -> Table:
    """All models that wrote, and the levels' own sentences, with the same figures."""
    rows, of_rows = [], []
    for label, levels in measured(report):
        figures = dict(figures_of(levels))
        rows += [(label, t(MODELS[model]), *_written(one, t)) for model, one in figures.items()]
        references = next((one.references for one in figures.values() if one.references), None)
        rows.append((label, t("The level's own sentences"), *_references(references, t)))
        of_rows += [label] * (len(figures) + 1)
    header = (t("Level"), t("Written by"), *_header(t))
    return Table(t("Estimated levels of the sentences"), header, rows, range(3, len(header)), of_rows=of_rows)


def by_mode(levels: WrittenLevels, t: ReportLanguage) -> Table:
    """One run's models, greedily and sampled."""
    rows = [
        (t(MODELS[model]), words, *_written(one, t))
        for mode, words in (("greedy", t("greedy")), ("sampled", t("sampled")))
        for model, one in figures_of(levels, mode)
    ]
    header = (t("Written by"), t("Mode"), *_header(t))
    return Table(t("Estimated levels of the sentences"), header, rows, range(3, len(header)))


def _header(t: ReportLanguage) -> tuple[Inline, ...]:
    return (
        t("Based on"),
        t("Sentences"),
        t("Mean level"),
        t("RMSE to the target"),
        t("Within half a level"),
        t("Within one level"),
        t("Difference from the level's own"),
        t("Wasserstein distance"),
    )


def _written(of: LevelFigures, t: ReportLanguage) -> tuple[Inline, ...]:
    """What a model wrote. An answer without a sentence measures nothing."""
    texts, gap = of.written, of.gap
    if texts is None:
        return _NO_TEXTS
    answers = t("{n} answers", n=t.count(texts.texts))
    if texts.measured_texts < texts.texts:
        answers = t("{n} of {all} answers", n=t.count(texts.measured_texts), all=t.count(texts.texts))
    apart = (
        (_difference(gap.mean_difference, texts.units >= FEW, t), figure(gap.wasserstein, t)) if gap else (NONE, NONE)
    )
    return (answers, *_figures(texts, t), *apart)


def _references(texts: TextLevels | None, t: ReportLanguage) -> tuple[Inline, ...]:
    """The level's own sentences, which may be in several examples."""
    if texts is None:
        return _NO_TEXTS
    examples = t("{n} examples", n=t.count(texts.texts))
    if texts.units != texts.measured_texts:
        examples = t(
            "{n} examples, {different} different sentences", n=t.count(texts.texts), different=t.count(texts.units)
        )
    return (examples, *_figures(texts, t), NONE, NONE)


def _figures(texts: TextLevels, t: ReportLanguage) -> tuple[Inline, ...]:
    return (
        t.count(texts.sentences),
        figure(texts.mean, t),
        figure(texts.rmse, t),
        _percent(texts.within_half_percent, t),
        _percent(texts.within_one_percent, t),
    )


def figure(one: WithInterval, t: ReportLanguage) -> Inline:
    """A figure with its 95% interval, where it has one."""
    return t.figure(one.value) + ("" if one.low is None else f" ({t.figure(one.low)} … {t.figure(one.high)})")


def _difference(one: WithInterval, enough: bool, t: ReportLanguage) -> Inline:
    shown = t.signed(one.value) + ("" if one.low is None else f" ({t.figure(one.low)} … {t.figure(one.high)})")
    return strong(shown) if enough and one.excludes_zero else shown


def _percent(one: WithInterval, t: ReportLanguage) -> Inline:
    return t.percent(one.value) + ("" if one.low is None else f" ({t.percent(one.low)} … {t.percent(one.high)})")


def heat_map(report: Report, t: ReportLanguage) -> Table:
    """Target level × estimated level: which share of the sentences of the tuned model, and of the level's own, is where."""
    rows: list[tuple[Inline, ...]] = []
    heat: list[tuple[float | None, ...]] = []
    of_rows: list[str] = []
    for label, name, texts in heat_rows(report, t):
        shares = [texts.level_percent[level].value for level in SCALE]
        rows.append((Markdown("{}, {}").format(label, name), *map(t.percent, shares)))
        heat.append((None, *(share / 100 for share in shares)))
        of_rows.append(label)
    header = (t("Target level, sentences of"), *SCALE)
    return Table(t("Share of the sentences by estimated level"), header, rows, range(1, 7), of_rows=of_rows, heat=heat)


def heat_rows(report: Report, t: ReportLanguage) -> Iterator[tuple[str, str, TextLevels]]:
    """Label, whose sentences they are, figures."""
    for label, levels in measured(report):
        figures = levels.tuned and levels.tuned.greedy
        if figures and figures.written:
            yield label, t.text("tuned model"), figures.written
        if figures and figures.references:
            yield label, t.text("the level's own"), figures.references


def instrument(t: ReportLanguage) -> Table:
    """The estimator's error on sentences of known level."""
    rows = [
        (
            level,
            t.count(error.sentences),
            t.signed(error.bias),
            t.figure(error.rmse),
            *map(t.count, error.estimated_as.values()),
        )
        for level, error in level_estimator().errors.items()
    ]
    header = (t("Labelled"), t("Sentences"), t("Bias"), t("RMSE"), *(t("as {level}", level=level) for level in SCALE))
    return Table(t("The estimator's error by level"), header, rows, range(1, len(header)))


def instrument_agreement(t: ReportLanguage) -> Inline:
    """How well the estimator agrees with the professionals, beside how well they agree with each other."""
    known = level_estimator()
    return t(
        "On {n} sentences that were not used for fitting, its error (RMSE) is {rmse} levels and its rank correlation "
        "with the labels (Spearman) {rho}; for one professional compared with the other, these are {other_rmse} and "
        "{other_rho}.",
        n=t.count(sum(error.sentences for error in known.errors.values())),
        rmse=t.figure(known.agreement.rmse),
        rho=t.figure(known.agreement.spearman),
        other_rmse=t.figure(known.annotators_agreement.rmse),
        other_rho=t.figure(known.annotators_agreement.spearman),
    )
