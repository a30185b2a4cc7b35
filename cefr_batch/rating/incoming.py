"""Files that raters sent → the store: checked as a whole, stored as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short

from cefr_batch.errors import Problem, RatingError
from cefr_batch.rating.criteria import CRITERIA
from cefr_batch.rating.form import Form
from cefr_batch.rating.sheets import Sheet, named, read_sheets
from cefr_batch.rating.stored import Rated, form_ids, get_form, put_rated
from cefr_batch.store import Store


@dataclass(frozen=True)
class Imported:
    """One rater's work on one form: of ``items`` sentences, ``complete`` have all marks; ``missing`` marks are not there."""

    file: str
    form: Form
    rater: str
    complete: int
    missing: int
    replaced: bool

    @property
    def items(self) -> int:
        return len(self.form.items)


def import_files(store: Store, files: Iterable[Path]) -> list[Imported]:
    """Store what the files hold, in place of what the same raters gave before for the same forms.

    Gaps are no problem. Raises ``RatingError`` with all that is wrong in any file; then nothing was stored.
    """
    problems: list[Problem] = []
    sheets = [sheet for file in dict.fromkeys(files) for sheet in read_sheets(file, problems)]
    problems += _twice(sheets)
    forms = {name: get_form(store, name) for name in sorted({sheet.form for sheet in sheets})}
    for sheet in sheets:
        problems += _not_of_form(store, sheet, forms[sheet.form])
    if problems:
        raise RatingError(problems)
    return [_store(store, sheet, form) for sheet in sheets if (form := forms[sheet.form])]


def _twice(sheets: Sequence[Sheet]) -> Iterable[Problem]:
    first: dict[tuple[str, str], Sheet] = {}
    for sheet in sheets:
        other = first.setdefault((sheet.form, sheet.rater), sheet)
        if other is not sheet:
            yield Problem(
                sheet.file, f"rater {sheet.rater} is in {other.file} too, for the same form; give one of them"
            )


def _not_of_form(store: Store, sheet: Sheet, form: Form | None) -> Iterable[Problem]:
    if form is None:
        valid = ", ".join(form_ids(store)) or "none; `cefr-batch rate export` makes one"
        yield Problem(sheet.file, f"form {short(sheet.form)} is not in {store.url}; the forms there: {valid}")
        return
    known = [item.id for item in form.items]
    for item in sheet.ratings:
        if item not in known:
            what = f"is not in form {form.id}; valid: {known[0]} to {known[-1]}"
            yield Problem(f"{sheet.file}, {named(item)}", what)
    if not any(sheet.ratings.values()):
        yield Problem(sheet.file, f"rater {sheet.rater} has rated nothing yet")


def _store(store: Store, sheet: Sheet, form: Form) -> Imported:
    ratings = {item: values for item, values in sorted(sheet.ratings.items()) if values}
    replaced = put_rated(store, Rated(form=form.id, rater=sheet.rater, ratings=ratings))
    complete = sum(len(values) == len(CRITERIA) for values in ratings.values())
    missing = len(form.items) * len(CRITERIA) - sum(map(len, ratings.values()))
    return Imported(sheet.file, form, sheet.rater, complete, missing, replaced)
