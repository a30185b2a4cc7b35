"""Must show: the pages of ``serve`` in a real Chromium: sentences of three levels side by side, the runs, both languages."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.chromium_fixtures import PATIENCE, serious_violations, watch
from support.report_stores import A2, B1, add_complete
from support.serving import Scripted, Site, running
from support.stand_in import until
from support.stored_runs import add_ended
from typing_extensions import override

from cefr_batch.config.schema import Level
from cefr_batch.serve.writers import Draw, Question, TextCallback, Voice
from cefr_batch.serve.writing import Writing
from cefr_batch.store.local import LocalStore

pytestmark = pytest.mark.e2e

HOSTILE = "<img src=x onerror=\"document.title='broken'\">"
ANSWERS = (
    "1. I travel to school.\n2. We decide together.\n3. I like ice cream.",
    "1. I usually travel by train.\n2. She decided to stay at home.\n3. They bought some ice cream.",
    "1. Those who travelled broadened their horizons considerably.\n2. The committee decided.\n3. Ice cream melts.",
    f"Sure! Here are sentences:\n1. {HOSTILE}\n2. Nothing.",
)
WHOLE = max(map(len, ANSWERS))  # tokens, each of one character


class Levels(Scripted):
    """A stand-in for three runs and their untrained model, whose answers are known."""

    voices = (
        Voice("smollm2-a1-peft-v1", Level.A1, 3),
        Voice("smollm2-a2-peft-v1", Level.A2, 3),
        Voice("smollm2-b1-peft-v1", Level.B1, 3),
        Voice("smollm2"),
    )

    @override
    def write(
        self, questions: Sequence[Question], words: Sequence[str], draw: Draw | None, on_text: TextCallback
    ) -> None:
        self.begun.set()
        texts = [ANSWERS[question.voice] for question in questions]
        try:
            for end in range(1, 1 + max(map(len, texts))):
                assert self.may_go_on.acquire(timeout=60)
                self.written = end
                for number, text in enumerate(texts):
                    on_text(number, text[:end], end >= len(text))
        finally:
            self.ended.set()


@pytest.fixture
def writer() -> Levels:
    return Levels("")


@pytest.fixture
def site(store: LocalStore, writer: Levels) -> Iterator[Site]:
    add_complete(store, "llama1b-a2-unsloth-v1", "A2", A2)
    add_complete(store, "llama1b-b1-unsloth-v1", "B1", B1)
    add_ended(store, "tiny-a1-peft-v1", "FAILED", "2026-01-03T00:00:00+00:00")
    store.put("runs/broken-b1-peft-v1/spec.json", b"{")
    with running(store, Writing(writer)) as site:
        yield site


@pytest.fixture
def browse(chromium: Any, site: Site) -> Iterator[Any]:
    """Opens an address of the site in a browser profile of its own; in the end no page may have logged an error, or asked
    anybody else for anything."""
    problems: list[str] = []
    contexts = []

    def opened(path: str, **options: Any) -> Any:
        context = chromium.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        watch(page, problems)
        page.goto(f"{site.url}{path}")
        return page

    yield opened
    for context in contexts:
        context.close()
    own = f"request: {site.url}/"
    assert [one for one in problems if not one.startswith(own)] == []


def check(page: Any, name: str, width: int, tmp_path: Path) -> None:
    """CEFR_BATCH_SCREENSHOTS=FOLDER keeps the screenshots, to be looked at."""
    assert serious_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=Path(os.environ.get("CEFR_BATCH_SCREENSHOTS") or tmp_path) / f"{name}.png", full_page=True)


@pytest.mark.parametrize(
    ("width", "scheme", "language"),
    [(390, "light", "tr"), (1280, "light", "en"), (390, "dark", "en"), (1280, "dark", "tr")],
)
def test_levels_side_by_side_then_the_runs(
    width: int, scheme: str, language: str, browse: Any, site: Site, writer: Levels, tmp_path: Path
) -> None:
    name = f"{language}-{scheme}-{width}"
    page = browse(f"/?lang={language}", viewport={"width": width, "height": 900}, color_scheme=scheme)
    check(page, f"serve-{name}-asked", width, tmp_path)
    page.fill("#words", "travel, decide, ice cream")
    page.click("#write")
    writer.may_go_on.release(30)  # in the middle of the second sentence
    page.locator(".answers tbody tr").nth(0).locator(".remark").nth(0).wait_for()
    assert page.locator(".being-written").count() >= 1
    check(page, f"serve-{name}-growing", width, tmp_path)
    writer.may_go_on.release(1000)
    page.locator("#take").wait_for()
    check_answers(page)
    check(page, f"serve-{name}-written", width, tmp_path)
    for number, path in enumerate(("/runs", "/runs/llama1b-b1-unsloth-v1", "/runs/tiny-a1-peft-v1")):
        page.goto(f"{site.url}{path}?lang={language}")
        check(page, f"serve-{name}-runs-{number}", width, tmp_path)


def check_answers(page: Any) -> None:
    """Every sentence is in its place, whole, marked and with an estimate; nothing of a model became mark-up."""
    rows = page.locator(".answers tbody tr")
    assert rows.locator(".sentence").count() == 11
    assert rows.nth(0).locator("td").nth(3).locator(".sentence").text_content().startswith("<img src")
    assert page.locator("main img").count() == 0
    assert "broken" not in page.title()
    assert rows.nth(0).locator("td").nth(2).locator("b.asked").all_text_contents() == ["travelled"]
    assert rows.nth(0).locator("td").nth(2).locator(".above sub").count() >= 2
    assert page.locator(".answers thead .mean").nth(0).text_content() != ""
    assert page.locator("#notes details").count() == 1


def test_what_was_written_can_be_copied_and_saved(browse: Any, writer: Levels, tmp_path: Path) -> None:
    page = browse("/?lang=tr")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    writer.may_go_on.release(1000)
    page.fill("#words", "travel, decide, ice cream")
    page.uncheck("input[name=voice] >> nth=3")
    page.click("#write")
    page.locator("#take").wait_for()
    page.click("#copy")
    page.get_by_text("Kopyalandı").wait_for()
    lines = page.evaluate("navigator.clipboard.readText()").split("\n")
    assert lines[1].split("\t")[:3] == ["travel", "I travel to school.", "I usually travel by train."]
    for kind, begins in (("csv", "\ufeffkelime;model;cümle;".encode()), ("docx", b"PK")):
        with page.expect_download() as download:
            page.click(f"[data-kind={kind}]")
        file = tmp_path / download.value.suggested_filename
        download.value.save_as(str(file))
        assert file.read_bytes().startswith(begins)


def test_stop_and_a_closed_tab_end_the_generation(browse: Any, writer: Levels, site: Site) -> None:
    page = browse("/")
    page.fill("#words", "travel, decide, ice cream")
    page.click("#write")
    writer.may_go_on.release(5)
    page.locator(".being-written").first.wait_for()
    page.click("#stop")
    page.get_by_text("Stopped.").wait_for()

    def one_token_more() -> bool:  # whoever writes notices with the next token, or one of the next on a busy machine
        writer.may_go_on.release()
        return writer.ended.wait(0.1)

    until(one_token_more)
    assert writer.written < WHOLE
    writer.ended.clear()
    while writer.may_go_on.acquire(blocking=False):
        pass
    page.click("#write")
    writer.may_go_on.release(5)
    page.locator(".being-written").first.wait_for()
    page.close()
    until(one_token_more)
    assert writer.written < WHOLE
    page = browse("/")
    page.fill("#words", "travel, decide, ice cream")
    writer.may_go_on.release(1000)
    page.click("#write")
    page.locator("#take").wait_for()


def test_the_list_of_runs_follows_what_happens(browse: Any, store: LocalStore) -> None:
    page = browse("/runs?text=tiny")
    assert page.locator("tbody tr").count() == 1
    assert page.locator("#follow").count() == 1  # one that is unknown may still change
    record = json.loads(store.get("runs/tiny-a1-peft-v1/status.json"))
    store.put_json("runs/tiny-a2-peft-v1/status.json", {**record, "run": "tiny-a2-peft-v1"})
    add_ended(store, "tiny-a2-peft-v1", "FAILED", "2026-01-04T00:00:00+00:00")
    page.get_by_role("link", name="tiny-a2-peft-v1").wait_for()
    page.click("main")
    page.get_by_role("link", name="tiny-a2-peft-v1").click()
    page.get_by_text("a line").wait_for()
