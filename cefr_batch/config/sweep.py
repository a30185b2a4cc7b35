"""What ``--set`` may say of a setting: one value, several values, or a range. One grammar for ``submit`` and ``plan``::

training.epochs=2              a value, as YAML
lora.rank=8,16,32              these values: numbers, or words of letters, digits, _ and -
training.seed=1..3             whole numbers, both ends included
lora.dropout=0.0..0.1          any number between the two, so it is refused: the values have to be named
training.learning_rate=1e-4..1e-3:log    likewise, as likely in each decade
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import isfinite, prod
from typing import TypeVar

from cefr_batch.errors import Problem, SpecError

T = TypeVar("T")

MAX_SWEEP = 1000
_WHOLE = r"[0-9]{1,9}"
_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_WORD = r"[A-Za-z_][A-Za-z0-9_-]*"
_KEY = r"(?P<key>[A-Za-z0-9_.-]+)"
_LIST = re.compile(rf"{_KEY}=(?P<values>(?:{_NUMBER}|{_WORD})(?:,(?:{_NUMBER}|{_WORD}))+)")
_RANGE = re.compile(rf"{_KEY}=(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?P<log>:log)?")


@dataclass(frozen=True)
class Values:
    """Settings to choose from, each as ``KEY=VALUE``; one that has a single value is no choice."""

    overrides: tuple[str, ...]

    @property
    def key(self) -> str:
        """The setting's name."""
        return self.overrides[0].partition("=")[0]


@dataclass(frozen=True)
class Range:
    """A setting's lowest and highest value. ``whole``: whole numbers alone; ``log``: as likely in each decade."""

    key: str
    low: float
    high: float
    whole: bool
    log: bool

    def __str__(self) -> str:
        low, high = (f"{int(end)}" if self.whole else f"{end!r}" for end in (self.low, self.high))
        return f"{self.key}={low}..{high}{':log' * self.log}"

    def override(self, value: float) -> str:
        """The setting with a value of the range, as ``KEY=VALUE`` that gives this very number."""
        return f"{self.key}={int(value) if self.whole else repr(float(value))}"

    def listed(self) -> Values:
        """All its values. Raises ``ValueError`` for a range without an end of values, or with too many."""
        if self.log or not self.whole:
            raise ValueError(
                f"'{self}' stands for any number in a range, which only `search` can use; name the values to run, as in "
                f"{self.key}={self.low:g},{self.high:g}"
            )
        if self.high - self.low >= MAX_SWEEP:
            raise ValueError(f"'{self}' must be a range with at least 1 and at most {MAX_SWEEP} values, as in 1..5")
        return Values(tuple(f"{self.key}={n}" for n in range(int(self.low), int(self.high) + 1)))


Choice = Values | Range


def parse_choice(text: str) -> Choice:
    """What one ``--set`` says. A text that is neither a list nor a range, a wrong one too, is a single value: whoever reads
    the settings checks it. Raises ``ValueError`` for a range that is none."""
    if listed := _LIST.fullmatch(text):
        values = dict.fromkeys(listed["values"].split(","))
        return Values(tuple(f"{listed['key']}={value}" for value in values))
    match = _RANGE.fullmatch(text)
    if not match:
        return Values((text,))
    low, high, log = float(match["low"]), float(match["high"]), bool(match["log"])
    whole = all(re.fullmatch(_WHOLE, match[end]) for end in ("low", "high"))
    if not (low <= high and isfinite(high)):
        raise ValueError(
            f"{text!r} must be a range with at least 1 and at most {MAX_SWEEP} values, as in 1..5: the lowest comes first"
        )
    if log and low == 0:
        raise ValueError(f"{text!r} begins at 0, which has no logarithm; begin above it, or leave out :log")
    return Range(match["key"], low, high, whole, log)


def parse_choices(overrides: Iterable[str]) -> list[Choice]:
    """What each ``--set`` says. Raises ``SpecError`` with every range that is none."""
    return _each(parse_choice, overrides)


def sweep(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """The overrides of each run: ``training.seed=1..3`` makes three, ``lora.rank=8,16`` two; several, every combination.

    Raises ``SpecError`` for a range that is empty or has no end of values, and for more than 1,000 runs.
    """
    choices = _each(_listed, overrides)
    combinations = prod(len(choice.overrides) for choice in choices)
    if combinations > MAX_SWEEP:
        too_many = f"these ranges make {combinations} runs of a level, more than the limit of {MAX_SWEEP}"
        raise SpecError([Problem("--set", f"{too_many}; use shorter ranges")])
    return list(product(*(choice.overrides for choice in choices)))


def _listed(text: str) -> Values:
    choice = parse_choice(text)
    return choice.listed() if isinstance(choice, Range) else choice


def _each(read: Callable[[str], T], overrides: Iterable[str]) -> list[T]:
    """What ``read`` makes of each. Raises ``SpecError`` with all that it refuses."""
    found, problems = [], []
    for text in overrides:
        try:
            found.append(read(text))
        except ValueError as exc:
            problems.append(Problem("--set", str(exc)))
    if problems:
        raise SpecError(problems)
    return found
