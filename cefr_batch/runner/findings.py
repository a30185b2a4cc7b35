"""What is found wrong before anything is started, all of it at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from cefr_batch.errors import CefrBatchError, NotReady, Problem
from cefr_batch.schedulers.base import Check

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Findings:
    """Problems from several checks, each once. ``refused``: one would keep the jobs from being submitted, and was only to be
    told."""

    problems: list[Problem] = field(default_factory=list)
    errors: list[CefrBatchError] = field(default_factory=list)
    refused: bool = False

    def get(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """The function's result; None if it found problems."""
        try:
            return function(*args, **kwargs)
        except CefrBatchError as exc:
            self.errors.append(exc)
            self.problems += getattr(exc, "problems", None) or [Problem("", str(exc))]
            return None

    def add(self, checks: Sequence[Check], *, warn_only: bool = False, force: bool = False) -> list[str]:
        """Collect the problems of these checks; return those that are only warnings. ``force``: opinions are, too;
        ``warn_only``: all are, and those say so that would refuse the jobs."""
        refusing = [check for check in checks if check.refuses and not (force and check.opinion)]
        others = [check.problem for check in checks if check.problem and check not in refusing]
        if warn_only:
            self.refused = self.refused or bool(refusing)
            return [*(f"submit would refuse this: {_with_way_out(check)}" for check in refusing), *others]
        self.problems += [Problem("", _with_way_out(check)) for check in refusing]
        return others

    def raise_if_any(self) -> None:
        """Raise ``NotReady`` with all of them, if there are any."""
        if self.problems:
            raise NotReady(dict.fromkeys(self.problems), max((e.exit_code for e in self.errors), default=1))


def _with_way_out(check: Check) -> str:
    return f"{check.problem} (--force submits it anyway)" if check.opinion else check.problem
