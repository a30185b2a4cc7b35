"""Files that raters sent → the store: all are checked first, and with a problem in any file nothing is stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short

from cefr_batch.errors import Problem, RatingError
from cefr_batch.human_eval.criteria import CRITERIA
from cefr_batch.human_eval.ratings_files import RaterSubmission, named, read_submissions
from cefr_batch.human_eval.stored import form_ids, get_form, put_rated
from cefr_batch.records.ratings import Form, Rated
from cefr_batch.store import Store


@dataclass(frozen=True)
class Imported:
    """One rater's stored work on a form: of ``items`` sentences ``complete`` have all marks; ``missing`` counts the gaps.

    ``levels``: how many sentences have a level.
    """

    file: str
    form: Form
    rater: str
    complete: int
    missing: int
    levels: int
    replaced: bool

    @property
    def items(self) -> int:
        """How many sentences the form has."""
        return len(self.form.items)


def import_files(store: Store, files: Iterable[Path]) -> list[Imported]:
    """Store what the files hold, in place of what the same raters gave before for the same forms.

    Gaps are no problem. Raises ``RatingError`` with all that is wrong in any file; then nothing was stored.
    """
    problems: list[Problem] = []
    submissions = [submission for file in dict.fromkeys(files) for submission in read_submissions(file, problems)]
    problems += _twice(submissions)
    forms = {name: get_form(store, name) for name in sorted({submission.form for submission in submissions})}
    for submission in submissions:
        problems += _not_of_form(store, submission, forms[submission.form])
    if problems:
        raise RatingError(problems)
    return [_store(store, submission, form) for submission in submissions if (form := forms[submission.form])]


def _twice(submissions: Sequence[RaterSubmission]) -> Iterable[Problem]:
    first: dict[tuple[str, str], RaterSubmission] = {}
    for submission in submissions:
        other = first.setdefault((submission.form, submission.rater), submission)
        if other is not submission:
            yield Problem(
                submission.file, f"rater {submission.rater} is in {other.file} too, for the same form; give one of them"
            )


def _not_of_form(store: Store, submission: RaterSubmission, form: Form | None) -> Iterable[Problem]:
    if form is None:
        valid = ", ".join(form_ids(store)) or "none; `cefr-batch rate export` makes one"
        yield Problem(submission.file, f"form {short(submission.form)} is not in {store.url}; the forms there: {valid}")
        return
    known = [item.id for item in form.items]
    for item in submission.ratings:  # has those with a level alone, too
        if item not in known:
            what = f"is not in form {form.id}; valid: {known[0]} to {known[-1]}"
            yield Problem(f"{submission.file}, {named(item)}", what)
    if not any(submission.ratings.values()) and not submission.levels:
        yield Problem(submission.file, f"rater {submission.rater} has rated nothing yet")


def _store(store: Store, submission: RaterSubmission, form: Form) -> Imported:
    ratings = {item: values for item, values in sorted(submission.ratings.items()) if values}
    rated = Rated(
        form=form.id,
        rater=submission.rater,
        ratings=ratings,
        levels=dict(sorted(submission.levels.items())),
        qualification=submission.qualification,
    )
    replaced = put_rated(store, rated)
    complete = sum(len(values) == len(CRITERIA) for values in ratings.values())
    missing = len(form.items) * len(CRITERIA) - sum(map(len, ratings.values()))
    return Imported(submission.file, form, submission.rater, complete, missing, len(rated.levels), replaced)
