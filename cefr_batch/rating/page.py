"""A form as one HTML file: no network, no library, works from ``file://``."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import yaml

from cefr_batch.levels import Level
from cefr_batch.rating.criteria import CRITERIA, SCALE
from cefr_batch.rating.form import Form

LANGUAGES = ("en", "tr")
_SEPARATOR = {"en": ",", "tr": ";"}  # of the CSV columns, as spreadsheet programs of that language expect


def form_html(form: Form, language: str) -> str:
    """The page. It holds what the rater may see: of a form's sources, nothing."""
    texts = form_texts(language)
    style, script = _resource("form.css"), _resource("form.js")
    return _template().render(
        lang=language,
        t=texts,
        items=[item.model_dump(include={"id", "level", "word", "sentence"}) for item in form.items],
        levels=[level.value for level in Level if any(item.level == level.value for item in form.items)],
        criteria=CRITERIA,
        scale=SCALE,
        data={"form": form.id, "separator": _SEPARATOR[language], "scale": SCALE, "texts": texts["script"]},
        style=style,
        script=script,
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )


@cache
def form_texts(language: str) -> dict[str, Any]:
    """The form's words in a language of ``LANGUAGES``."""
    texts: dict[str, Any] = yaml.safe_load(_resource(f"{language}.yaml"))
    return texts


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_resource("form.html.jinja"))


@cache
def _resource(name: str) -> str:
    return resources.files("cefr_batch.rating").joinpath(name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    """As a content security policy names an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
