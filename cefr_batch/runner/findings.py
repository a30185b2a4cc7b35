"""What is found wrong before anything is started, all of it at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from cefr_batch.errors import CefrBatchError, NotReady, Problem
from cefr_batch.schedulers.base import Check

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Findings:
    """Problems and warnings from several checks, each once. ``refused``: one would keep the jobs from being submitted, and
    was only to be told."""

    problems: list[Problem] = field(default_factory=list)
    errors: list[CefrBatchError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    refused: bool = False

    def get(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """The function's result; None if it found problems."""
        try:
            return function(*args, **kwargs)
        except CefrBatchError as exc:
            self.errors.append(exc)
            self.problems += getattr(exc, "problems", None) or [Problem("", str(exc))]
            return None

    def add(self, checks: Iterable[Check], *, warn_only: bool = False, force: bool = False) -> None:
        """Collect what these checks found. ``force``: opinions are warnings, too; ``warn_only``: all are, and those say so
        that would refuse the jobs."""
        found = [check for check in checks if check.problem]
        refusing = [check for check in found if check.refuses and not (force and check.opinion)]
        if warn_only:
            self.refused = self.refused or bool(refusing)
            self.warnings += [f"submit would refuse this: {_with_way_out(check)}" for check in refusing]
        else:
            self.problems += [Problem("", _with_way_out(check)) for check in refusing]
        self.warnings += [check.problem for check in found if check not in refusing]

    def raise_if_any(self) -> None:
        """Log every warning, then raise ``NotReady`` with every problem, if there are any."""
        for warning in dict.fromkeys(self.warnings):
            log.warning("%s", warning)
        if self.problems:
            raise NotReady(dict.fromkeys(self.problems), max((e.exit_code for e in self.errors), default=1))


def _with_way_out(check: Check) -> str:
    return f"{check.problem} (--force submits it anyway)" if check.opinion else check.problem
