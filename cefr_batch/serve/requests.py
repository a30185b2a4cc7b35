"""What the page's script sends."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class PageRequest(BaseModel):
    """The body of a request. Strict: no unknown keys, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
