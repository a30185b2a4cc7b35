"""Forms and ratings in the store, and the runs' sentences that forms are made of."""

from __future__ import annotations

import logging

from cefr_batch.errors import Damaged, NotFound
from cefr_batch.records import layout
from cefr_batch.records.ratings import Form, Rated
from cefr_batch.store import Store

log = logging.getLogger(__name__)


def put_form(store: Store, form: Form) -> None:
    """The id is made of the content, so a form that is there already is this one."""
    store.put_record(layout.rating_key(form.id), form)


def get_form(store: Store, form_id: str) -> Form | None:
    """The form, or None if there is none. Raises ``StoreError`` if it is not what was written."""
    if not layout.is_form_id(form_id):
        return None
    try:
        return store.get_record(layout.rating_key(form_id), Form)
    except NotFound:
        return None


def form_ids(store: Store) -> list[str]:
    """The forms in the store."""
    return [name for name in store.folders(f"{layout.RATINGS}/") if layout.is_form_id(name)]


def put_rated(store: Store, rated: Rated) -> bool:
    """Store a rater's work, in place of what the rater gave before; whether there was any."""
    key = layout.rater_key(rated.form, rated.rater)
    replaced = store.exists(key)
    store.put_record(key, rated)
    return replaced


def all_rated(store: Store, form_id: str) -> list[Rated]:
    """What each rater gave for a form. What else lies there is left out, with a warning for a rater's document that is not
    what was written. Raises ``StoreError`` if the store fails."""
    found = []
    for key in (info.key for info in store.objects(layout.raters_folder(form_id))):
        if not layout.is_rater_key(key):
            continue
        try:
            rated = store.get_record(key, Rated)
        except Damaged as exc:
            log.warning("%s; this rater's marks are left out", exc)
            continue
        if key == layout.rater_key(form_id, rated.rater) and rated.form == form_id:
            found.append(rated)
        else:
            log.warning("%s is of another form or rater; it is left out", store.locate(key))
    return found
