"""The time as every record has it: UTC, ISO 8601, whole seconds."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated

from pydantic import AfterValidator


def now() -> str:
    """The current time, as in ``2026-01-31T09:30:00+00:00``."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def parse_time(text: str) -> datetime:
    """A record's time; one without a time zone is taken as UTC. Raises ``ValueError`` if the text is no time."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def age_seconds(text: str) -> float:
    """The seconds that have passed since a record's time. Raises ``ValueError`` if the text is no time."""
    return (datetime.now(timezone.utc) - parse_time(text)).total_seconds()


def _checked(text: str) -> str:
    parse_time(text)
    return text


Timestamp = Annotated[str, AfterValidator(_checked)]
