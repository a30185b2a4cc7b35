"""What the models wrote: ``generation.json`` with the texts, and the figures that are counted in them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cefr_batch.records.document import Count, Part, StoredRecord

Mode = Literal["greedy", "sampled"]


class Answers(Part):
    """A model's answers to one prompt: its most probable text, and one drawn at random. ``cut``: which of them were not
    closed when they reached ``generation.max_new_tokens``."""

    greedy: str
    sampled: str
    cut: list[Mode] = Field(default_factory=list)


Baseline = Literal["zero_shot", "few_shot"]  # how else the untrained model is asked, see ``generation.baselines``
# Why it was not asked so: its tokenizer has no chat template, or a template that cannot be used; a prompt and the answer
# would be longer than the texts that the model can read.
WhyMissing = Literal["no_chat_template", "unusable_chat_template", "too_long"]


class WrittenExample(Part):
    """What the untrained and the tuned model wrote for the words of an evaluation example.

    ``baseline``: asked as the tuned model is; ``zero_shot`` and ``few_shot``: in plain words through its own chat template,
    without and with three training examples. None: not asked so, see ``GenerationFigures.missing``.
    """

    index: Count
    words: list[str]
    baseline: Answers
    tuned: Answers
    zero_shot: Answers | None = None
    few_shot: Answers | None = None


class GenerationRecord(StoredRecord):
    """``generation.json``."""

    examples: list[WrittenExample]


class Quality(Part):
    """Figures over all answers of a model in one mode; None where there is nothing to count.

    ``copied_percent``: of the sentences, those that occur word for word in the training data. ``duplicate_percent``: those
    that equal an earlier one. ``at_or_below_level_percent``: of the running words whose level is known.
    ``readability_grade``: the Automated Readability Index, a US school grade.

    Newer than 0.1.0, so None in older records too. ``cut_percent``: of the answers, those that reached
    ``generation.max_new_tokens`` before they were closed. ``near_copied_percent``: of the sentences, those near one of the
    training data (``data.near_duplicates``) or in it. ``distinct_words_percent`` and ``distinct_word_pairs_percent``:
    different running words, and different pairs of neighbours in a sentence, of all. ``repeated_openings_percent``: of the
    sentences with a word, those that begin with the same three words as an earlier one.
    """

    answers: Count
    sentences: Count
    well_formed_percent: float | None
    words_used_percent: float | None
    copied_percent: float | None
    duplicate_percent: float | None
    words_per_sentence: float | None
    at_or_below_level_percent: float | None
    unknown_words_percent: float | None
    readability_grade: float | None
    near_copied_percent: float | None = None
    distinct_words_percent: float | None = None
    distinct_word_pairs_percent: float | None = None
    repeated_openings_percent: float | None = None
    cut_percent: float | None = None


class QualityByMode(Part):
    """Of one model."""

    greedy: Quality
    sampled: Quality


class GenerationFigures(Part):
    """Figures of both models, and of the untrained one also when it is asked in other ways, if it was."""

    baseline: QualityByMode
    tuned: QualityByMode
    zero_shot: QualityByMode | None = None
    few_shot: QualityByMode | None = None
    missing: dict[Baseline, WhyMissing] = Field(default_factory=dict)
