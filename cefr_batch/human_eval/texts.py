"""The form's texts that belong to a criterion, a level or the form's script. All are messages of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass

from cefr_batch.i18n.language import N_


@dataclass(frozen=True)
class CriterionText:
    """A criterion as the rater reads it; ``anchors``: what the marks 1, 3 and 5 mean."""

    name: str
    question: str
    anchors: dict[int, str]


CRITERION_TEXTS = {  # by the names in CRITERIA
    "word_usage": CriterionText(
        N_("Word usage"),
        N_("is the given word used correctly?"),
        {
            1: N_("The word is missing, or used in a wrong sense"),
            3: N_("The word is there and can be understood, but its form or the words around it are not quite right"),
            5: N_("The word is used correctly, in a clear sense"),
        },
    ),
    "level_appropriateness": CriterionText(
        N_("Level"),
        N_("do words and grammar suit the level?"),
        {
            1: N_("Far too hard or far too easy for learners of this level"),
            3: N_("Partly suits the level; some words or structures do not"),
            5: N_("Suits learners of this level well"),
        },
    ),
    "grammatical_accuracy": CriterionText(
        N_("Grammar"),
        N_("is the sentence free of grammar mistakes?"),
        {
            1: N_("Mistakes make it hard to understand"),
            3: N_("One or two mistakes, but clear"),
            5: N_("No mistakes"),
        },
    ),
    "naturalness": CriterionText(
        N_("Naturalness"),
        N_("would a fluent speaker say or write it like this?"),
        {
            1: N_("Nobody would say it; strange or meaningless"),
            3: N_("Understandable, but stiff or unusual"),
            5: N_("Sounds natural"),
        },
    ),
}
LEVEL_TEXTS = {
    "A1": N_("very simple, everyday phrases about oneself and the things at hand"),
    "A2": N_("simple sentences about familiar matters such as family, shopping and work"),
    "B1": N_("connected, clear language about familiar subjects, experiences and plans"),
    "B2": N_("clear, detailed language about many subjects, including abstract ones"),
    "C1": N_("flexible, well-structured language about complex subjects"),
    "C2": N_("precise, effortless language about anything, with fine shades of meaning"),
}
QUALIFICATION_TEXTS = {  # by the names in records.ratings.Qualification
    "examiner": N_("I am trained in rating texts by CEFR levels"),
    "teacher": N_("I teach English"),
    "student": N_("I study English or how to teach it"),
    "speaker": N_("I speak English very well"),
}
SCRIPT_TEXTS = {  # form.js fills in what stands in braces
    "done": N_("Part 2: {done} of {n} sentences rated"),
    "levels_done": N_("Part 1: levels of {done} of {n} sentences given"),
    "missing": N_("Sentences not fully rated yet: {n}. Choose a number to go there."),
    "all_rated": N_("All sentences are rated."),
    "complete": N_("complete"),
    "partly": N_("{done} of {n} questions answered"),
    "incomplete": N_("Sentences not fully rated: {n}. Save the file all the same?"),
    "thanks": N_(
        "Saved as {file}, in your downloads. Please send this file to the person who gave you the form. Thank you."
    ),
    "rater_problem": N_(
        "Please enter your name or code. Letters, digits, spaces and . _ @ - only, the first a letter or digit."
    ),
}
