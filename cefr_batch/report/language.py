"""The languages of a report: its messages and how numbers look in them.

A message is written in English where it is used, ``t("…")`` (or ``N_("…")`` where it is only named), and looked up in
``locale/<code>.po``. A message that has no translation would appear in English; a test finds it first.
"""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal
from functools import lru_cache
from importlib.resources import files

from babel import Locale
from babel.dates import format_datetime
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po
from babel.numbers import format_decimal

from cefr_batch.report import text
from cefr_batch.report.document import Inline, Value, filled, plain_text

LANGUAGES = ("en", "tr")
NONE = "–"


def N_(message: str) -> str:
    """Mark a message that is looked up elsewhere."""
    return message


@lru_cache
def catalogue(code: str) -> Catalog:
    """A language's messages; none for English, in which they are written."""
    if code == "en":
        return Catalog(locale=code)
    with (files("cefr_batch.report") / "locale" / f"{code}.po").open("rb") as file:
        return read_po(file, locale=code)


class Language:
    """Messages as spans, and numbers in the form of the language."""

    def __init__(self, code: str) -> None:
        self.code = code
        self._locale = Locale.parse(code)
        self._messages = {str(m.id): str(m.string) for m in catalogue(code) if m.id and m.string}
        hours, minutes, seconds = map(self.text, (N_("h"), N_("min"), N_("s")))
        self._time_units = hours, minutes, seconds
        self._percent = str(self._locale.percent_formats[None].pattern)

    def __call__(self, message: str, /, **values: Value) -> Inline:
        return filled(self._messages.get(message, message), values)

    def text(self, message: str, /, **values: Value) -> str:
        """Without mark-up, for places that have none. Only of messages that are marked elsewhere."""
        return plain_text(self(message, **values))

    def count(self, value: float) -> str:
        return format_decimal(round(value), "#,##0", locale=self._locale)

    def figure(self, value: float | None, digits: int = 2) -> str:
        """A loss, a perplexity: ``0.43``; ``–`` if there is none."""
        return NONE if value is None else self._decimal(value, digits)

    def _decimal(self, value: float, digits: int) -> str:
        pattern = "#,##0" + ("." + "0" * digits if digits else "")
        return str(format_decimal(Decimal(f"{value:.{digits}f}") + 0, pattern, locale=self._locale))  # + 0: never -0

    def percent(self, value: float | None, digits: int = 1) -> str:
        """``68.7%``, ``%68,7``; what is not zero, or not all, never looks like it."""
        if value is None:
            return NONE
        least = 10.0**-digits
        if 0 < abs(value) < least / 2:
            return f"{'<' if value > 0 else '>-'}{self._in_percent(self._decimal(least, digits))}"
        if value < 100 and f"{value:.{digits}f}" == f"{100:.{digits}f}":
            return f">{self._in_percent(self._decimal(100 - least, digits))}"
        number = self._in_percent(self._decimal(abs(value), digits))
        return f"-{number}" if f"{value:.{digits}f}".startswith("-") else number

    def _in_percent(self, number: str) -> str:
        return self._percent.replace("#,##0", number)

    def points(self, value: float) -> str:
        """A difference of percentages."""
        return self._decimal(value, 1)

    def short(self, value: float) -> str:
        """With as few digits as it has: ``0.34``, ``67.4``, ``1,800``."""
        return str(format_decimal(Decimal(str(value)), "#,##0.###", locale=self._locale))

    def plain_number(self, value: float) -> str:
        """Four significant digits, for curves: ``1.823``, ``0.0002``."""
        exact = Decimal(f"{value:.4g}")
        return str(format_decimal(exact, "#,##0.##########", locale=self._locale))

    def short_duration(self, seconds: float) -> str:
        """``6 min 42 s``"""
        return text.short_duration(seconds, self._time_units)

    def duration(self, seconds: float) -> str:
        """``6 min 42 s (402.4 s)``"""
        exact = f"{self._decimal(seconds, 1)} {self._time_units[-1]}"
        return exact if seconds < 60 else f"{self.short_duration(seconds)} ({exact})"

    def time(self, stamp: str) -> str:
        """``26 October 2025, 13:07 UTC``; a stamp that is no time stays as it is."""
        try:
            parsed = datetime.fromisoformat(stamp)
        except ValueError:
            return stamp
        if not parsed.tzinfo:
            return stamp
        return str(format_datetime(parsed.astimezone(timezone.utc), "d MMMM y, HH:mm 'UTC'", locale=self._locale))

    def size(self, n_bytes: float) -> str:
        """``1.4 GB``, in powers of 1000."""
        return text.size(n_bytes, self._decimal)
