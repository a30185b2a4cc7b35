"""The HTML page: that it is one safe document, and what it holds. How it looks: tests/e2e/test_report_in_chromium.py."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from support.report_stores import B1, add_spec, add_unfinished, metrics, three_levels

from cefr_batch.report.collect import collect
from cefr_batch.report.write import render
from cefr_batch.store.local import LocalStore

EVIL = '</code><script>alert(1)</script> <img src=x onerror=alert(1)> " onload="x \' {{ 7 * 7 }} \x1b[31m'
VOID = {"meta", "input", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """The elements of a page, each with its attributes; every one must be closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def page_of(store: LocalStore, language: str = "en") -> Page:
    return Page(render(collect(store), "html", language).decode())


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    page = page_of(three_levels(tmp_path))
    assert not page.of("link", "img", "iframe", "object", "base", "form")
    assert all("src" not in attributes for _, attributes in page.elements)
    assert all((attributes["href"] or "").startswith("#") for attributes in page.of("a"))
    assert "url(" not in "".join(page.text)
    assert "@import" not in "".join(page.text)


@pytest.mark.parametrize("language", ["en", "tr"])
def test_links_lead_to_sections_and_no_address_stands_twice(tmp_path: Path, language: str) -> None:
    page = page_of(three_levels(tmp_path), language)
    places = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(places) == len(set(places))
    targets = {str(attributes["href"]).removeprefix("#") for attributes in page.of("a")}
    assert len(targets) >= 5
    assert targets <= set(places)


def test_headings_go_down_one_step_at_a_time(tmp_path: Path) -> None:
    page = page_of(three_levels(tmp_path))
    depths = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert depths[0] == 1
    assert depths.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(depths))


def test_charts_say_what_they_show_and_table_headers_what_they_head(tmp_path: Path) -> None:
    page = page_of(three_levels(tmp_path))
    drawings = [a for a in page.of("svg") if "aria-hidden" not in a]
    assert len(drawings) == 3 + 1 + 3 * 3  # grid, overlay, three of each level
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 40 for a in drawings)
    assert all(a["scope"] in ("row", "col") for a in page.of("th"))
    assert len(page.of("caption")) == len(page.of("table")) > 10


def test_only_its_own_style_and_script_may_run(tmp_path: Path) -> None:
    text = render(collect(three_levels(tmp_path)), "html", "en").decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src &#39;none&#39;;")
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src &#39;sha256-{digest}&#39;" in policy
    assert "style=" not in text
    assert not re.search(r"\son\w+=", text)


@pytest.mark.parametrize("language", ["en", "tr"])
def test_foreign_text_cannot_become_part_of_the_page(tmp_path: Path, language: str) -> None:
    store = three_levels(tmp_path)
    honest = page_of(store, language)
    made = metrics("llama1b-b1-unsloth-v1", "B1", B1)
    machine = {"cpu": EVIL, "gpu": None, "threads": 2}
    made |= {"model": EVIL, "backend": EVIL, "machine": machine, "versions": {EVIL: EVIL}}
    store.put_json("runs/llama1b-b1-unsloth-v1/metrics.json", made)
    reference = {"source": EVIL, "figures": {"unique_words": "806"}}
    add_spec(store, "llama1b-b1-unsloth-v1", "B1", model__name=EVIL, data__source=EVIL, data__split_by=EVIL,
             reference=reference)  # fmt: skip
    add_unfinished(store, "llama1b-c1-unsloth-v1", "C1", "FAILED", EVIL)
    page = page_of(store, language)
    assert len(page.of("script")) == len(honest.of("script")) == 1
    assert not page.of("img")
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    assert EVIL.replace("\x1b", "\N{REPLACEMENT CHARACTER}") in "".join(page.text)
    assert "\x1b" not in "".join(page.text)


@pytest.mark.parametrize("language", ["en", "tr"])
def test_the_page_says_what_the_markdown_file_says(tmp_path: Path, language: str) -> None:
    """Every heading, paragraph, list item and cell, in the same order."""
    report = collect(three_levels(tmp_path))
    markdown = render(report, "md", language).decode()
    parsed = MarkdownIt("commonmark").enable("table").parse(markdown)
    written = ["".join(c.content for c in token.children or ()) for token in parsed if token.type == "inline"]
    assert len(written) > 300
    shown = "".join(Page(render(report, "html", language).decode()).text)
    at = 0
    for text in written[1:]:  # the title stands twice
        at = shown.find(text, at)
        assert at >= 0, text


def test_a_level_that_may_be_hidden_is_named_on_everything_of_it(tmp_path: Path) -> None:
    page = page_of(three_levels(tmp_path))
    of_b1 = [tag for tag, attributes in page.elements if attributes.get("data-level") == "B1"]
    assert {"section", "tr", "th", "td", "figure", "g", "li"} <= set(of_b1)
