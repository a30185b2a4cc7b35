"""What a run's two models wrote: what was counted in it, and some of it side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cefr_batch.data.examples import numbered_lines
from cefr_batch.i18n.language import N_, NONE, Language
from cefr_batch.records.texts import Answers, GenerationFigures, Quality, WhyMissing, WrittenExample
from cefr_batch.report.blocks import Table
from cefr_batch.report.markdown import Inline, ReportLanguage

SHOWN = 5  # samples

_Show = Callable[[Language, float | None], str]
_PERCENT: _Show = Language.percent
_FIGURE: _Show = Language.figure

MEASURES: tuple[tuple[str, Callable[[Quality], float | None], _Show], ...] = (
    (N_("Format followed: numbered sentences, one per word, in order"), lambda q: q.well_formed_percent, _PERCENT),
    (N_("Answers cut off at `generation.max_new_tokens`"), lambda q: q.cut_percent, _PERCENT),
    (N_("Words used, inflected or not"), lambda q: q.words_used_percent, _PERCENT),
    (N_("Sentences copied from the training set"), lambda q: q.copied_percent, _PERCENT),
    (N_("… copied or nearly so (at most one edit in ten characters)"), lambda q: q.near_copied_percent, _PERCENT),
    (N_("Sentences that repeat an earlier one"), lambda q: q.duplicate_percent, _PERCENT),
    (N_("Sentences that open with the three words of an earlier one"), lambda q: q.repeated_openings_percent, _PERCENT),
    (N_("Different words, of all words (distinct-1)"), lambda q: q.distinct_words_percent, _PERCENT),
    (
        N_("Different pairs of words in a row, of all pairs (distinct-2)"),
        lambda q: q.distinct_word_pairs_percent,
        _PERCENT,
    ),
    (N_("Words per sentence"), lambda q: q.words_per_sentence, _FIGURE),
    (N_("Words at or below the level"), lambda q: q.at_or_below_level_percent, _PERCENT),
    (N_("Words of unknown level, not counted in the row above"), lambda q: q.unknown_words_percent, _PERCENT),
    (N_("Readability (ARI, US school grade)"), lambda q: q.readability_grade, _FIGURE),
)


# The untrained model, asked in other ways than the tuned one.
OTHER_WAYS: dict[str, str] = {
    "zero_shot": N_("Untrained, asked in plain words"),
    "few_shot": N_("Untrained, with three examples"),
}
_WHY_MISSING: dict[WhyMissing, str] = {
    "no_chat_template": N_("{way}: missing, since the model has no chat template."),
    "unusable_chat_template": N_(
        "{way}: missing, since the model's chat template cannot be used; the job's log says why."
    ),
    "too_long": N_("{way}: missing, since the prompt and its answer are longer than what the model can read."),
}


def counted(written: GenerationFigures, t: ReportLanguage) -> list[Table]:
    """The quality of the generated sentences, by model and way of generating: a table for each way of generating where the
    untrained model was asked in several ways."""
    others = {t(label): found for way, label in OTHER_WAYS.items() if (found := getattr(written, way))}
    if not others:
        header = (t("Baseline, greedy"), t("Tuned, greedy"), t("Baseline, sampled"), t("Tuned, sampled"))
        both = (written.baseline, written.tuned)
        columns = [*(of.greedy for of in both), *(of.sampled for of in both)]
        return [_counted(t("Counted in the generated sentences"), header, columns, t)]
    models = {t("Untrained, asked as in training"): written.baseline, **others, t("Tuned"): written.tuned}
    greedy = [of.greedy for of in models.values()]
    sampled = [of.sampled for of in models.values()]
    return [
        _counted(t("Counted in the generated sentences, greedy"), tuple(models), greedy, t),
        _counted(t("Counted in the generated sentences, sampled"), tuple(models), sampled, t),
    ]


def _counted(caption: str, models: Sequence[str], columns: Sequence[Quality], t: ReportLanguage) -> Table:
    rows = [(t(label), *(show(t, of(q)) for q in columns)) for label, of, show in MEASURES]
    return Table(caption, (t("Measure"), *models), rows, range(1, len(models) + 1))


def missing(written: GenerationFigures, t: ReportLanguage) -> list[str]:
    """Why the untrained model was not asked in each other way that was wanted, a sentence each."""
    return [t(_WHY_MISSING[why], way=t(OTHER_WAYS[way])) for way, why in written.missing.items()]


def samples(written: Sequence[WrittenExample]) -> list[WrittenExample]:
    """The first examples, as far as they have a word."""
    return [example for example in written[:SHOWN] if example.words]


def examples_sampled(written: Sequence[WrittenExample]) -> int:
    """From how many examples ``samples`` chooses."""
    return min(SHOWN, len(written))


def side_by_side(chosen: Sequence[WrittenExample], t: ReportLanguage) -> Table:
    """Of each example the sentence of its first word, by both models, and by the untrained one as it was asked besides."""
    asked = {"baseline": N_("Baseline"), **OTHER_WAYS, "tuned": N_("Tuned")}
    models = [model for model in asked if any(getattr(e, model) for e in chosen)]
    rows = [(e.words[0], *(_first(getattr(e, model)) for model in models)) for e in chosen]
    return Table(t("Sentences for the same words"), (t("Word"), *(t(asked[model]) for model in models)), rows)


def _first(answers: Answers | None) -> Inline:
    """The sentence with number 1."""
    lines = numbered_lines(answers.greedy) if answers else []
    return next((text for number, text in lines if number == 1 and text.strip()), NONE)
