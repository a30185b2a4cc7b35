"""A row for docs/run-where.md: which tests passed on a system, which were skipped there, and why."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import PurePosixPath

import pytest


class Row:
    """A pytest plugin that notes how each test of one file ends, and prints the row at the end of the session.

    ``where``: the system, in words. ``command``: what ran the tests.
    """

    def __init__(self, file: str, where: str, command: str) -> None:
        self.where = where
        self._file, self._command = file, command
        self._ended: dict[str, str] = {}  # a test's name in words → "passed", "failed", or why it was skipped
        self._began = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file, _, name = report.nodeid.partition("::")
        if PurePosixPath(file).name != self._file:
            return
        words = name.removeprefix("test_").replace("_", " ")
        if report.failed:
            self._ended[words] = "failed"
        elif report.skipped:
            self._ended[words] = _reason(report)
        elif report.when == "call":
            self._ended[words] = "passed"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if "passed" in self._ended.values():
            terminalreporter.section("a row for docs/run-where.md")
            terminalreporter.write_line(self.text())

    def text(self) -> str:
        passed, failed = ([words for words, how in self._ended.items() if how == one] for one in ("passed", "failed"))
        skipped = [f"{words} ({how})" for words, how in self._ended.items() if how not in ("passed", "failed")]
        minutes = max(1, round((time.monotonic() - self._began) / 60))
        limits = [f"tests (`{self._command}`) on {datetime.now(timezone.utc):%Y-%m-%d}, in {minutes} min"]
        limits += [
            f"{title}: {'; '.join(these)}" for title, these in (("skipped", skipped), ("FAILED", failed)) if these
        ]
        cells = (f"Kubernetes: {'; '.join(passed)}", self.where, ". ".join(limits))
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _reason(report: pytest.TestReport) -> str:
    """Why a test was skipped, in one line."""
    said = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return " ".join(said.removeprefix("Skipped: ").split())
