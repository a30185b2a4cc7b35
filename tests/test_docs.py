"""The documentation holds together: every link leads somewhere, and every page can be found."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import cast

import click
import pytest

from cefr_batch.cli.main import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("k8s/**/*.md")])
_CODE = re.compile(r"^( *)```.*?^\1```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def links(page: Path) -> list[str]:
    return _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(
        r"^#+ (.*)$", _CODE.sub(lambda m: m[0].strip("`"), page.read_text(encoding="utf-8")), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_ends_inside_a_code_block(page: Path) -> None:
    """Which is how a page looks whose rest was lost."""
    assert len(re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)) % 2 == 0


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "On SLURM" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_the_reference_is_what_it_describes() -> None:
    written = {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "docs" / "reference").iterdir()}
    assert written == runpy.run_path(str(ROOT / "tools" / "reference.py"))["pages"](), "run tools/reference.py"


_BLOCK = re.compile(r"^ *```console\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def shown_commands() -> list[tuple[str, str]]:
    """Each command line of cefr-batch that a page shows, with the page; a comment behind it is left out."""
    found = []
    for page in PAGES:
        for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
            lines = block.replace("\\\n", " ").splitlines()
            commands = [line.strip().removeprefix("$ ") for line in lines if line.strip().startswith("$ ")]
            plain = [re.split(r"\s#\s|[|>;&]", command)[0].strip() for command in commands]
            found += [(str(page.relative_to(ROOT)), one) for one in plain if one.startswith("cefr-batch ")]
    return found


@pytest.mark.parametrize(("page", "command"), shown_commands())
def test_every_command_that_a_page_shows_can_be_typed(page: str, command: str) -> None:
    """Its command and options exist, and each option has its value; it is not run."""
    context, found, words = click.Context(cli), cast(click.Command, cli), shlex.split(command)[1:]
    while isinstance(found, click.Group) and not (found.invoke_without_command and words[0].startswith("-")):
        _, one, words = found.resolve_command(context, words)
        assert one
        found, context = one, click.Context(one, parent=context, info_name=one.name)
    found.make_parser(context).parse_args(words)


def test_every_page_of_the_documentation_is_linked_from_the_readme() -> None:
    named = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    elsewhere = {"index.md", "benchmarks-notes.md"}  # the site's own first page, and a part of another page
    assert {page.name for page in (ROOT / "docs").glob("*.md") if page.resolve() not in named} == elsewhere


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
