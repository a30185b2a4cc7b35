"""Forms and ratings in the store, and the runs' sentences that forms are made of."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cefr_batch import layout
from cefr_batch.errors import NotFound, StoreError
from cefr_batch.rating.criteria import SCALE
from cefr_batch.rating.form import Form
from cefr_batch.store import Store

D = TypeVar("D", bound=BaseModel)


class Rated(BaseModel):
    """``ratings/<form>/raters/<hash>.json``: one rater's work; ``ratings``: item → criterion → 1..5, gaps left out."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    form: str
    rater: str
    ratings: dict[str, dict[str, Annotated[int, Field(ge=SCALE[0], le=SCALE[-1])]]]


def put_form(store: Store, form: Form) -> None:
    """The id is made of the content, so a form that is there already is this one."""
    store.put_json(layout.rating_key(form.id), form.model_dump(mode="json"))


def get_form(store: Store, form_id: str) -> Form | None:
    """The form, or None if there is none. Raises ``StoreError`` if it is not what was written."""
    if not layout.is_form_id(form_id):
        return None
    try:
        return _checked(Form, store, layout.rating_key(form_id))
    except NotFound:
        return None


def form_ids(store: Store) -> list[str]:
    return [name for name in store.folders(f"{layout.RATINGS}/") if layout.is_form_id(name)]


def put_rated(store: Store, rated: Rated) -> bool:
    """Store a rater's work, in place of what the rater gave before; whether there was any."""
    key = layout.rater_key(rated.form, rated.rater)
    replaced = store.exists(key)
    store.put_json(key, rated.model_dump(mode="json"))
    return replaced


def all_rated(store: Store, form_id: str) -> list[Rated]:
    return [_checked(Rated, store, info.key) for info in store.objects(layout.raters_folder(form_id))]


def _checked(kind: type[D], store: Store, key: str) -> D:
    try:
        return kind.model_validate_json(store.get(key))
    except ValidationError as exc:
        error = exc.errors()[0]
        where = ".".join(map(str, error["loc"]))
        raise StoreError(f"{store.locate(key)} is not as it was written: {where}: {error['msg']}") from exc
