"""What the page's script says, by the names that it uses."""

from __future__ import annotations

from cefr_batch.i18n.language import N_, Language

_SCRIPT_TEXTS = {
    "waiting": N_("Waiting; requests before this one: {n}"),
    "writing": N_("Writing …"),
    "progress": N_("{done} of {all} sentences written"),
    "done": N_("Done: {done} of {all} sentences written."),
    "stopped": N_("Stopped."),
    "lost": N_("The connection to the server was lost. Is it still running?"),
    "level": N_("level {level} (estimated {estimate})"),
    "above": N_("level {level}, above the answer's level"),
    "unused": N_("the word is not used"),
    "missing": N_("no sentence"),
    "untrained": N_("untrained, asked for {level}"),
    "trained": N_("trained for {level}"),
    "format": N_("This answer is not one numbered sentence for each word and nothing else."),
    "cut": N_("This answer was cut off: it reached the maximum length."),
    "whole": N_("The whole answer"),
    "copied": N_("Copied; it can be pasted into a spreadsheet or a document."),
    "word": N_("word"),
}


def script_texts(t: Language) -> dict[str, str]:
    """In the reader's language, with nothing filled in."""
    return {name: t.message(text) for name, text in _SCRIPT_TEXTS.items()}
