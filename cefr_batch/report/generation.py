"""What a run's two models wrote: what was counted in it, and some of it side by side."""

from __future__ import annotations

from collections.abc import Callable

from cefr_batch.data.examples import numbered_lines
from cefr_batch.report.collect import Result
from cefr_batch.report.document import Block, Inline, Paragraph, Section, Table, inline
from cefr_batch.report.language import N_, NONE, Language
from cefr_batch.report.stored import Answers, Quality, WrittenExample

SHOWN = 5  # samples

_Show = Callable[[Language, float | None], str]
_PERCENT: _Show = Language.percent
_FIGURE: _Show = Language.figure

MEASURES: tuple[tuple[str, Callable[[Quality], float | None], _Show], ...] = (
    (N_("Format kept: numbered sentences, one a word, in order"), lambda q: q.well_formed_percent, _PERCENT),
    (N_("Words used, inflected or not"), lambda q: q.words_used_percent, _PERCENT),
    (N_("Sentences copied from the training set"), lambda q: q.copied_percent, _PERCENT),
    (N_("Sentences that repeat an earlier one"), lambda q: q.duplicate_percent, _PERCENT),
    (N_("Words per sentence"), lambda q: q.words_per_sentence, _FIGURE),
    (N_("Words at or below the level"), lambda q: q.at_or_below_level_percent, _PERCENT),
    (N_("Words of unknown level, not counted there"), lambda q: q.unknown_words_percent, _PERCENT),
    (N_("Readability (ARI, US school grade)"), lambda q: q.readability_grade, _FIGURE),
)


def generation_blocks(result: Result, t: Language) -> list[Block]:
    """Empty for a run that wrote nothing."""
    written = result.metrics.generation
    if written is None:
        return []
    columns = [
        getattr(getattr(written, when), mode) for mode in ("greedy", "sampled") for when in ("baseline", "tuned")
    ]
    rows = tuple((t(label), *(inline(show(t, of(q))) for q in columns)) for label, of, show in MEASURES)
    header = (t("Measure"), t("Baseline, greedy"), t("Tuned, greedy"), t("Baseline, sampled"), t("Tuned, sampled"))
    what = t(
        "Both models answered the first {n} evaluation examples, greedily and sampled. Levels of words come from a word "
        "list (cefrpy): one level for a word form, blind to its meaning.",
        n=t.count(written.tuned.greedy.answers),
    )
    table = Table(t("Counted in the generated sentences"), header, rows, frozenset(range(1, 5)))
    return [Paragraph(what), table, *_samples(result.written, t)]


def _samples(written: tuple[WrittenExample, ...], t: Language) -> list[Block]:
    """By rule: of each of the first examples the sentence of its first word."""
    chosen = [example for example in written[:SHOWN] if example.words]
    if not chosen:
        return []
    rows = tuple((inline(e.words[0]), _first(e.baseline), _first(e.tuned)) for e in chosen)
    rule = t(
        "Not chosen by taste: the first word of each of the first {n} examples, written greedily.",
        n=t.count(min(SHOWN, len(written))),
    )
    table = Table(t("Sentences for the same words"), (t("Word"), t("Baseline"), t("Tuned")), rows)
    return [Section(t("Samples side by side"), (Paragraph(rule), table))]


def _first(answers: Answers) -> Inline:
    """The sentence with number 1."""
    return inline(next((text for number, text in numbered_lines(answers.greedy) if number == 1 and text.strip()), NONE))
