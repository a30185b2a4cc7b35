"""What is rated, on which scale, by whom. The form's script has the same rule for a rater's id."""

from __future__ import annotations

import unicodedata

from cefr_batch.records.ratings import MARKS

CRITERIA = ("word_usage", "level_appropriateness", "grammatical_accuracy", "naturalness")
SCALE = MARKS

_LONGEST = 64
RATER_RULE = f"1 to {_LONGEST} letters (of any alphabet), digits, spaces and . _ @ -, the first a letter or digit"


def rater_id(text: str) -> str | None:
    """A rater's id in the one form in which it is compared, or None if it breaks the rule.

    The rule leaves nothing that a spreadsheet takes for a formula or Markdown for a table.
    """
    name = unicodedata.normalize("NFC", text).strip()
    fine = 0 < len(name) <= _LONGEST and _kind(name[0]) in "LN" and all(map(_allowed, name))
    return name if fine else None


def _allowed(character: str) -> bool:
    return _kind(character) in "LNM" or character in " ._@-"


def _kind(character: str) -> str:
    return unicodedata.category(character)[0]
