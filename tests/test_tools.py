"""The scripts of tools/ that a commit and a release go through."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


def _run(tool: str | Path, argument: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TOOLS / tool, argument], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("Report an error when generate runs out of memory\n\nThe log alone had it.\n", ""),
        ("Embed the fonts\n\nSo that the page needs no network.\n# Please enter the commit message\n", ""),
        ("Merge branch 'main' into levels", ""),
        ("Report an error\n# a comment is no body\n", "a body says why"),
        ("Report an error\n\n# ---- >8 ----\ndiff --git a b\n", "a body says why"),
        ("Report an error\nwithout an empty line\n", "the second line is empty"),
        ("Reported an error\n\nWhy.\n", "imperative"),
        ("report an error\n\nWhy.\n", "capital letter"),
        ("Report an error.\n\nWhy.\n", "full stop"),
        (f"Report {'x' * 66}\n\nWhy.\n", "73 characters"),
    ],
)
def test_a_commit_message_keeps_the_rules(tmp_path: Path, message: str, problem: str) -> None:
    file = tmp_path / "message"
    file.write_text(message, encoding="utf-8")
    result = _run("commit_message.sh", file)
    assert (result.returncode == 0) == (not problem)
    assert problem in result.stderr


def test_the_notes_of_a_release_are_its_section_of_the_changelog(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    script = shutil.copy(TOOLS / "changelog.sh", tmp_path / "tools")
    changelog = (
        "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- Two.\n\n## [0.1.0]\n\n- One.\n"
    )
    (tmp_path / "CHANGELOG.md").write_text(changelog, encoding="utf-8")
    assert _run(script, "0.2.0").stdout.split() == ["###", "Added", "-", "Two."]
    assert _run(script, "0.1.0").stdout.split() == ["-", "One."]
    for version in ("Unreleased", "0.3.0", "0.1"):
        refused = _run(script, version)
        assert refused.returncode == 1
        assert f'nothing under "## [{version}]"' in refused.stderr
