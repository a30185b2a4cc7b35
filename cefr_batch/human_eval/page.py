"""A form as one HTML file: no network, no library, works from ``file://``."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources

import jinja2

from cefr_batch.human_eval.criteria import CRITERIA, SCALE
from cefr_batch.human_eval.texts import CRITERION_TEXTS, LEVEL_TEXTS, QUALIFICATION_TEXTS, SCRIPT_TEXTS
from cefr_batch.i18n.language import Language
from cefr_batch.records.level_figures import SCALE as LEVELS
from cefr_batch.records.ratings import Form

_SEPARATOR = {"en": ",", "tr": ";"}  # of the CSV columns, as spreadsheet programs of that language expect


def form_html(form: Form, language: str) -> str:
    """The page, in one of ``i18n.language.LANGUAGES``. It holds nothing of a form's sources: rating is blind."""
    t = Language(language)
    style, script = _resource("form.css"), _resource("form.js")
    texts = {name: t.message(text) for name, text in SCRIPT_TEXTS.items()}
    return _template().render(
        t=t,
        items=[item.model_dump(include={"id", "level", "word", "sentence"}) for item in form.items],
        levels=LEVELS,
        level_texts=LEVEL_TEXTS,
        criteria={name: CRITERION_TEXTS[name] for name in CRITERIA},
        scale=SCALE,
        qualifications=QUALIFICATION_TEXTS,
        data={"form": form.id, "separator": _SEPARATOR[language], "scale": SCALE, "levels": LEVELS, "texts": texts},
        style=style,
        script=script,
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_resource("form.html.jinja"))


@cache
def _resource(name: str) -> str:
    return resources.files("cefr_batch.human_eval").joinpath(name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    """As a content security policy names an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
