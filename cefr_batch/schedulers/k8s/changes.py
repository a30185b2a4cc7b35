"""What a server makes of an object: which fields its answer lacks or changes. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cefr_batch.schedulers.k8s.quantity import quantity


@dataclass(frozen=True)
class Change:
    """A field that was sent (``spec.completionMode``), and what the server made of it. ``dropped``: nothing."""

    field: str
    sent: Any
    got: Any = None
    dropped: bool = False

    def __str__(self) -> str:
        return f"{self.field} from {self.sent!r} to {self.got!r}"


def changes_of(sent: Any, got: Any, field: str = "") -> Iterator[Change]:
    """What of ``sent`` is absent or different in ``got``. What the server adds is no change, nor is an empty value that it
    leaves out, a quantity that it writes otherwise (``1024Mi``, ``1Gi``), or an item that it puts between others."""
    if isinstance(sent, dict) and isinstance(got, dict):
        for key, value in sent.items():
            name = f"{field}.{key}" if field else str(key)
            if key in got:
                yield from changes_of(value, got[key], name)
            elif value not in (None, "", [], {}):
                yield Change(name, value, dropped=True)
    elif isinstance(sent, list) and isinstance(got, list):
        for number, item in enumerate(sent):
            yield from _of_item(item, got, f"{field}[{number}]")
    elif sent != got and not (quantity(sent) and quantity(sent) == quantity(got)):
        yield Change(field, sent, got)


def _of_item(item: Any, others: list[Any], field: str) -> list[Change]:
    """The changes of a list's item: against the one of the same name, else against the most similar one."""
    name = item.get("name") if isinstance(item, dict) else None
    alike = [one for one in others if name and isinstance(one, dict) and one.get("name") == name] or others
    found = [list(changes_of(item, one, field)) for one in alike]
    return min(found, key=len, default=[Change(field, item, dropped=True)])
