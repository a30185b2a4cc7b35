"""Must show: the HTML report in a real Chromium: on screens of three widths, light, dark and on paper."""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from support.chromium_fixtures import OpenPage, serious_violations
from support.report_stores import full_report

from cefr_batch.report.collect import collect
from cefr_batch.report.write import render
from cefr_batch.store.local import LocalStore

pytestmark = pytest.mark.e2e

LEVELS = ["A1", "A2", "B1", "B2", "C1"]
WIDTHS = (390, 820, 1280, 1440)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of a store with everything in it, by language."""
    folder = tmp_path_factory.mktemp("report")
    store = full_report(LocalStore(folder / "store"))
    report = collect(store, levels=LEVELS)
    files = {language: folder / f"report.{language}.html" for language in ("en", "tr")}
    for language, file in files.items():
        file.write_bytes(render(report, "html", language))
    return files


@pytest.mark.parametrize(("language", "scheme"), [("en", "light"), ("tr", "dark")])
def test_readable_at_every_width_without_a_serious_finding(
    pages: dict[str, Path], open_page: OpenPage, language: str, scheme: str, tmp_path: Path
) -> None:
    """CEFR_BATCH_SCREENSHOTS=FOLDER keeps the screenshots, to be looked at."""
    shots = Path(os.environ.get("CEFR_BATCH_SCREENSHOTS") or tmp_path)
    page = open_page(pages[language], color_scheme=scheme)
    backgrounds = set()
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shot = shots / f"report-{language}-{scheme}-{width}.png"
        page.screenshot(path=shot, full_page=True)
        assert shot.stat().st_size > 50_000
        assert page.evaluate(UNREADABLE) == []
        backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert backgrounds == {"rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 29)"}
    assert serious_violations(page) == []


# Text of the page (not of a table or chart that scrolls by itself) that its own box cuts off.
UNREADABLE = """
[...document.querySelectorAll("h1, h2, h3, h4, p, li, figcaption, label, caption")]
  .filter((e) => e.checkVisibility() && !e.closest(".wide") && e.scrollWidth > e.clientWidth + 1)
  .map((e) => e.outerHTML.slice(0, 120))
"""


def test_every_link_leads_to_a_heading_in_view(pages: dict[str, Path], open_page: OpenPage) -> None:
    page = open_page(pages["en"], viewport={"width": 1000, "height": 700})
    links = page.locator("nav a")
    assert links.count() >= 7
    for number in range(links.count()):
        link = links.nth(number)
        link.click()
        target = page.locator(str(link.get_attribute("href")))
        assert target.get_by_role("heading").first.inner_text()
        box = target.bounding_box()
        assert box is not None
        assert box["y"] < 700
        assert box["y"] + box["height"] > 0
    assert all(page.locator(str(a.get_attribute("href"))).count() == 1 for a in page.locator("a").all())


def first_column(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("#overview tbody th").all_inner_texts()]


def test_the_overview_sorts_both_ways_with_what_is_missing_last(pages: dict[str, Path], open_page: OpenPage) -> None:
    page = open_page(pages["en"])
    button = page.get_by_role("button", name="Loss reduction, response only")
    heading = page.locator("#overview th", has=button)
    assert first_column(page) == LEVELS
    button.click()
    assert heading.get_attribute("aria-sort") == "ascending"
    ascending = first_column(page)
    assert ascending == ["A1", "A2", "B1", "B2", "C1"]
    button.focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert first_column(page) == ["B1", "A2", "A1", "B2", "C1"]
    page.get_by_role("button", name="Level").click()
    assert heading.get_attribute("aria-sort") is None
    assert first_column(page) == LEVELS


def test_a_level_can_be_hidden_everywhere_and_comes_back(pages: dict[str, Path], open_page: OpenPage) -> None:
    page = open_page(pages["en"])
    before = page.locator("[data-level='A2']:visible").count()
    assert before > 20
    page.get_by_role("checkbox", name="A2").uncheck()
    assert page.locator("[data-level='A2']:visible").count() == 0
    assert page.locator("#comparison thead th:visible").first.inner_text() == "Metric"
    assert "A2" not in page.locator("#comparison table").first.inner_text()
    assert page.locator("[data-level='B1']:visible").count() > 20
    page.get_by_role("checkbox", name="A2").check()
    assert page.locator("[data-level='A2']:visible").count() == before


def test_a_curve_tells_its_values(pages: dict[str, Path], open_page: OpenPage) -> None:
    page = open_page(pages["tr"], viewport={"width": 1200, "height": 900})
    chart = page.locator("#level-3-training figure").first
    chart.scroll_into_view_if_needed()
    tip = page.locator("#tip")
    assert not tip.is_visible()
    circle = chart.locator("circle").first
    expected = circle.locator("title").text_content()
    assert expected == "eğitim kaybı: 10. adım: 1,82"
    circle.hover(force=True)
    assert tip.inner_text() == expected
    box = tip.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1200
    page.mouse.move(5, 5)
    assert not tip.is_visible()


def test_it_prints(pages: dict[str, Path], open_page: OpenPage, tmp_path: Path) -> None:
    """On A4, with the text in it and without what only a screen needs; dark readers get white paper too."""
    page = open_page(pages["en"], color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav, #filter, #hint, #tip").locator("visible=true").count()
    page.emulate_media(media="screen")
    file = Path(os.environ.get("CEFR_BATCH_SCREENSHOTS") or tmp_path) / "report.pdf"
    page.pdf(path=file, format="A4", prefer_css_page_size=True)
    data = file.read_bytes()
    assert data.startswith(b"%PDF-")
    sheets = len(re.findall(rb"/Type\s*/Page\b", data))
    assert 4 <= sheets <= 40
    # Not zlib.decompress: a checksum whose last byte is a carriage return reads as part of the line's end.
    drawn = sum(len(zlib.decompressobj().decompress(part)) for part in streams(data))
    assert drawn > 20_000


def streams(data: bytes) -> list[bytes]:
    """The compressed streams of a PDF."""
    found = re.findall(rb"/FlateDecode[^>]*>>\s*stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL)
    assert found
    return [part for part in found if part[:1] == b"x"]


def test_whole_without_its_script(pages: dict[str, Path], open_page: OpenPage) -> None:
    page = open_page(pages["en"], java_script_enabled=False)
    assert page.locator("main section").count() > 20
    assert page.locator("#filter").is_hidden()
    assert page.locator("figure svg path").first.is_visible()


@pytest.mark.parametrize("language", ["en", "tr"])
def test_nothing_is_cut_off_on_paper_and_no_label_lies_on_another(
    pages: dict[str, Path], open_page: OpenPage, language: str
) -> None:
    page = open_page(pages[language], viewport={"width": 680, "height": 960})  # A4 without its margins
    page.emulate_media(media="print")
    assert page.locator("table").count() > 10
    assert page.evaluate(WIDER_THAN_PAPER) == []
    assert page.locator("svg text.title").count() > 10
    assert page.evaluate(TICKS_ON_TITLE) == []


WIDER_THAN_PAPER = """
[...document.querySelectorAll("table, pre, figure, p, li")]
  .filter((e) => e.getBoundingClientRect().right > innerWidth)
  .map((e) => e.outerHTML.slice(0, 120))
"""
TICKS_ON_TITLE = """
[...document.querySelectorAll("figure > svg")].flatMap((svg) => [...svg.querySelectorAll("text.y")]
  .filter((tick) => svg.querySelector("text.title").getBoundingClientRect().right > tick.getBoundingClientRect().left)
  .map((tick) => tick.textContent))
"""
