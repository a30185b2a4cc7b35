"""The server's HTML: templates, and the language in which a reader gets them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request

from cefr_batch.i18n.language import LANGUAGES, Language
from cefr_batch.report.compare import flat

LANGUAGE_NAMES = {"en": "English", "tr": "Türkçe"}  # each in its own


class Page:
    """What every template gets beside its own values: ``t``, links that keep the language, the page's own address."""

    def __init__(self, request: Request) -> None:
        chosen = request.query_params.get("lang", "")
        self.chosen_language = chosen if chosen in LANGUAGES else ""
        self._query = [(key, value) for key, value in request.query_params.multi_items() if key != "lang"]
        self._path = request.url.path
        self.t = Language(self.chosen_language or accepted(request.headers.get("accept-language", "")))

    def link(self, path: str, **parameters: object) -> str:
        """The address of another page in the language that the reader chose, if any."""
        given = {key: str(value) for key, value in parameters.items()}
        if self.chosen_language:
            given["lang"] = self.chosen_language
        return f"{path}?{urlencode(given)}" if given else path

    def languages(self) -> list[tuple[str, str, str]]:
        """Code, name, and this page's address in each language."""
        return [
            (code, name, f"{self._path}?{urlencode([*self._query, ('lang', code)])}")
            for code, name in LANGUAGE_NAMES.items()
        ]

    def render(self, template: str, **values: object) -> str:
        """The page. What is not ``Markup`` is escaped."""
        return _environment().get_template(f"{template}.html.jinja").render(page=self, t=self.t, **values)


def accepted(header: str) -> str:
    """The language that a browser prefers among ``LANGUAGES``, by its Accept-Language; English if it names none."""
    weights: dict[str, float] = {}
    for part in header.split(","):
        name, _, weight = part.partition(";q=")
        try:
            weights.setdefault(name.strip().lower().partition("-")[0], float(weight or 1))
        except ValueError:
            continue
    known: Mapping[str, float] = {code: weights[code] for code in LANGUAGES if weights.get(code, 0) > 0}
    return max(known, key=known.__getitem__) if known else LANGUAGES[0]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cefr_batch.serve", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["flat"] = flat
    return environment
