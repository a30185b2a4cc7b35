"""Messages in the reader's language, and how numbers look in it.

A message is written in English where it is used, ``t("…")`` or ``t.text("…")`` (``N_("…")`` where it is only named), and
looked up in ``locale/<code>.po``. A message without a translation would appear in English; a test finds it first.
"""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal
from functools import cache
from importlib.resources import files

from babel import Locale
from babel.dates import format_datetime
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po
from babel.numbers import format_decimal

from cefr_batch.i18n import units

LANGUAGES = ("en", "tr")
_MOST = 1e15  # no figure is meant that is larger, and Babel's decimals do not reach far beyond
MINUS = "\N{MINUS SIGN}"
NONE = "–"  # shown in place of a value that is not there


def N_(message: str) -> str:
    """Mark a message that is looked up elsewhere, for the tool that extracts them."""
    return message


@cache
def catalogue(code: str) -> Catalog:
    """A language's messages; none for English, in which they are written."""
    if code == "en":
        return Catalog(locale=code)
    with (files("cefr_batch.i18n") / "locale" / f"{code}.po").open("rb") as file:
        return read_po(file, locale=code)


class Language:
    """One of ``LANGUAGES``: ``t = Language("tr")``, then ``t("{n} tokens", n=t.count(512))``."""

    def __init__(self, code: str) -> None:
        self.code = code
        self._locale = Locale.parse(code)
        self._messages = {str(m.id): str(m.string) for m in catalogue(code) if m.id and m.string}
        hours, minutes, seconds = map(self.message, (N_("h"), N_("min"), N_("s")))
        self._time_units = hours, minutes, seconds
        self._percent = str(self._locale.percent_formats[None].pattern)

    def __call__(self, message: str, /, **values: object) -> str:
        """The translated message with its ``{name}`` filled in. Raises ``KeyError`` for a value that is not given."""
        return self.text(message, **values)

    def text(self, message: str, /, **values: object) -> str:
        """As calling it; plain text also where a subclass returns something else from a call."""
        return self.message(message).format(**values)

    def message(self, message: str) -> str:
        """The translated message as it is in the catalogue, with nothing filled in."""
        return self._messages.get(message, message)

    def count(self, value: float) -> str:
        """A whole number: ``1,800``."""
        return format_decimal(round(value), "#,##0", locale=self._locale)

    def figure(self, value: float | None, digits: int = 2) -> str:
        """A loss, a perplexity: ``0.43``; ``–`` if there is none."""
        return NONE if value is None else self._decimal(value, digits)

    def _decimal(self, value: float, digits: int) -> str:
        if abs(value) >= _MOST:
            return f"{value:.3g}"
        pattern = "#,##0" + ("." + "0" * digits if digits else "")
        exact = Decimal(f"{value:.{digits}f}") + 0  # + 0: never -0
        return str(format_decimal(exact, pattern, locale=self._locale)).replace("-", MINUS)

    def percent(self, value: float | None, digits: int = 1) -> str:
        """``68.7%``, ``%68,7``; what is not zero, or not all, never looks like it."""
        if value is None:
            return NONE
        least = 10.0**-digits
        if 0 < abs(value) < least / 2:
            return f"{'<' if value > 0 else f'>{MINUS}'}{self._in_percent(self._decimal(least, digits))}"
        if value < 100 and f"{value:.{digits}f}" == f"{100:.{digits}f}":
            return f">{self._in_percent(self._decimal(100 - least, digits))}"
        number = self._in_percent(self._decimal(abs(value), digits))
        return f"{MINUS}{number}" if f"{value:.{digits}f}".startswith("-") else number

    def _in_percent(self, number: str) -> str:
        return self._percent.replace("#,##0", number)

    def signed(self, value: float, digits: int = 2) -> str:
        """A difference: ``+0.12``, ``−0.93``, ``0.00``."""
        shown = self._decimal(value, digits)
        return f"+{shown}" if float(f"{value:.{digits}f}") > 0 else shown

    def points(self, value: float) -> str:
        """A difference of percentages."""
        return self._decimal(value, 1)

    def plain_number(self, value: float) -> str:
        """Four significant digits, for curves: ``1.823``, ``0.0002``."""
        if abs(value) >= _MOST:
            return f"{value:.3g}"
        exact = Decimal(f"{value:.4g}")
        return str(format_decimal(exact, "#,##0.##########", locale=self._locale)).replace("-", MINUS)

    def short_duration(self, seconds: float) -> str:
        """``6 min 42 s``"""
        return units.short_duration(seconds, self._time_units)

    def duration(self, seconds: float) -> str:
        """``6 min 42 s (402.4 s)``"""
        exact = f"{self._decimal(seconds, 1)} {self._time_units[-1]}"
        return exact if seconds < 60 else f"{self.short_duration(seconds)} ({exact})"

    def time(self, stamp: str) -> str:
        """``26 October 2025, 13:07 UTC``; a stamp that is not a time with its zone stays as it is."""
        try:
            parsed = datetime.fromisoformat(stamp)
        except ValueError:
            return stamp
        if not parsed.tzinfo:
            return stamp
        return str(format_datetime(parsed.astimezone(timezone.utc), "d MMMM y, HH:mm 'UTC'", locale=self._locale))

    def size(self, n_bytes: float) -> str:
        """``1.4 GB``, in powers of 1000."""
        return units.size(n_bytes, self._decimal)
