"""A real headless Chromium for pages that work from a file. Where it is not installed: a skip that says so."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")  # Debian's; `apt-get install chromium`
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 180_000  # milliseconds; the machine may be busy
LOCAL = ("file:", "data:", "blob:", "about:")

OpenPage = Callable[..., Any]  # (path, **options of a browser context) -> a Playwright page


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser, started once."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed")
    if not CHROMIUM.is_file():
        _missing(f"{CHROMIUM} is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[OpenPage]:
    """Opens a file in a browser profile of its own. In the end no page may have logged an error or asked the network."""
    problems: list[str] = []
    contexts = []

    def opened(path: Path, **options: Any) -> Any:
        context = chromium.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        watch(page, problems)
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def watch(page: Any, problems: list[str]) -> None:
    """From now on, add what the page's console complains of, its errors, and what it asks the network for."""
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("console", lambda message: _note(problems, message))
    page.on("request", lambda request: _note_request(problems, request.url))


def serious_violations(page: Any) -> list[str]:
    """What axe-core finds serious or critical on the page as it is now shown."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response
    assert len(found["passes"]) > 5, "axe did not look at the page"
    return [
        f"{violation['id']}: {violation['help']}: {node['html'][:200]}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def _note(problems: list[str], message: Any) -> None:
    if message.type in ("error", "warning"):
        problems.append(f"console {message.type}: {message.text}")


def _note_request(problems: list[str], url: str) -> None:
    if not url.startswith(LOCAL):
        problems.append(f"request: {url}")


def _missing(why: str) -> None:
    (pytest.fail if os.environ.get("CEFR_BATCH_REQUIRE_ALL") else pytest.skip)(why)
