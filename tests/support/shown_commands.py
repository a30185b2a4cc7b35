"""The console blocks of the documentation: what a page tells its reader to type, and what it promises to print.

A block is run as it stands, unless a comment before it says otherwise: ``<!-- not run: WHY -->``, or, where a test has to
bring something up first, ``<!-- needs: WHAT -->``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>not run|needs): (?P<words>[^>]+) -->\n\n?)?^ *```console\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class ShownCommand:
    """A command as a page shows it, and the lines below it, in which an ellipsis stands for anything."""

    line: str
    promised: tuple[str, ...] = ()

    @property
    def fails(self) -> bool:
        """Does the page show it as an example of an error?"""
        return any(line.startswith("error:") for line in self.promised)

    def keeps_its_promise(self, printed: str) -> bool:
        """Are the promised lines there, in their order? A number may be another one."""
        parts = [_pattern(line) for line in self.promised]
        return re.search(r".*".join(parts), printed, re.DOTALL) is not None


def _pattern(line: str) -> str:
    anything = ".*?".join(re.escape(part.strip()) for part in line.strip().split("…"))
    return re.sub(r"\d+(?:,\d+)*", r"[\\d,]+", anything)


@dataclass(frozen=True)
class Block:
    """A console block of a page. ``not_run``: why; ``needs``: what a test has to bring up."""

    page: Path
    line: int
    commands: tuple[ShownCommand, ...] = field(repr=False)
    not_run: str = ""
    needs: str = ""


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        mark = {(match["mark"] or "").replace(" ", "_"): match["words"]} if match["mark"] else {}
        found.append(Block(page, text.count("\n", 0, match.start()) + 1, _commands(match["text"]), **mark))
    return found


def _commands(text: str) -> tuple[ShownCommand, ...]:
    """Lines that begin with ``$``, with those that continue them (a backslash, or an open quotation) and their output."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.strip().startswith("$ "):
            found.append((line.strip()[2:], []))
        elif found[-1][0].endswith("\\") or found[-1][0].count("'") % 2:
            found[-1] = (f"{found[-1][0]}\n{line}", [])
        else:
            found[-1][1].append(line)
    return tuple(ShownCommand(line, tuple(promised)) for line, promised in found)


def replaced(line: str, values: Mapping[str, str]) -> str:
    """The line with the names of the example replaced by those of the test."""
    for name, value in values.items():
        line = line.replace(name, value)
    return line


def script(commands: Sequence[ShownCommand], values: Mapping[str, str], end: str) -> str:
    """A Bash script that types the commands in one shell and prints ``end``, its number and its exit code after each."""
    lines = [f"{replaced(one.line, values)}\nprintf '%s\\n' \"{end} {n} $?\"" for n, one in enumerate(commands)]
    return "\n".join(lines)
