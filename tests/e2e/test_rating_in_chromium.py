"""Whole sessions of raters in a real Chromium: export, rate, close, go on, save, import; and is the form accessible?

``open_page`` fails a test whose page logged an error or asked the network for anything.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from support.alpha_by_definition import interval_alpha, ordinal_alpha
from support.chromium_fixtures import OpenPage, serious_violations, watch
from support.kappa_by_definition import quadratic_weighted_kappa
from support.rating_stores import RUNS, add_generated, example

from cefr_batch.human_eval.criteria import CRITERIA, rater_id
from cefr_batch.human_eval.stored import get_form
from cefr_batch.records.level_figures import SCALE
from cefr_batch.records.ratings import Form
from cefr_batch.store.local import LocalStore

pytestmark = pytest.mark.e2e

Command = Callable[..., Any]
Marks = dict[tuple[str, str], int]  # (item, criterion) -> mark
Levels = dict[str, int]  # item -> 1 (A1) to 6 (C2)

HOSTILE = '</script><script>document.title="broken"</script><img src=x onerror="document.title=1">'


@pytest.fixture
def form(cefr_batch: Command, store: LocalStore, tmp_path: Path) -> Form:
    """``en.html`` and ``tr.html`` of two runs, 12 sentences, some of which are not friendly."""
    words = ["travel", "=1+1", "<b>bold</b>"]
    add_generated(store, RUNS[0])
    add_generated(
        store, RUNS[1], [example(words, ["I travel " * 60, HOSTILE, "=SUM(A1)"], ["x" * 300, "We.", "مرحبا"])]
    )
    for language in ("en", "tr"):
        out = tmp_path / f"{language}.html"
        assert cefr_batch("rate", "export", *RUNS, "--items", "12", "--lang", language, "--out", str(out)).code == 0
    (form_id,) = store.folders("ratings/")
    form = get_form(store, form_id)
    assert form
    assert len(form.items) == 12
    return form


def marks_of(form: Form, rater: int) -> Marks:
    """Raters who agree mostly."""
    return {
        (item.id, criterion): (7 * number + 3 * index + (rater if (number + index) % 3 == 0 else 0)) % 5 + 1
        for number, item in enumerate(form.items)
        for index, criterion in enumerate(CRITERIA)
    }


def levels_of(form: Form, rater: int) -> Levels:
    """Raters who disagree in a known way: the first gives the target, the second often one more, the third shrinks to B1."""
    target = {item.id: SCALE.index(item.level) + 1 for item in form.items}
    second = {item: level + n % 2 for n, (item, level) in enumerate(target.items())}
    third = {item: max(level, 2) if n % 3 else 3 for n, (item, level) in enumerate(target.items())}
    return (target, second, third)[rater]


def begin(page: Any, name: str, qualification: str = "") -> None:
    page.select_option("#qualification", qualification)
    page.fill("#rater", name)
    page.press("#rater", "Enter")


def give_levels(page: Any, form: Form, levels: Levels) -> None:
    """From the first sentence of part 1, by keyboard, as far as there are levels; then on to part 2."""
    for item in form.items:
        assert page.locator("section:visible").get_attribute("data-item") == item.id
        if item.id in levels:
            page.keyboard.press(str(levels[item.id]))
            page.keyboard.press("Enter")
        else:
            page.click("section:visible .next")
    page.click("#begin-second")


def rate_by_keyboard(page: Any, form: Form, marks: Marks, items: range) -> None:
    """From the sentence that is shown: four digits rate it and leave the focus on Next."""
    for number in items:
        assert page.locator("section:visible").get_attribute("data-item") == form.items[number].id
        for criterion in CRITERIA:
            page.keyboard.press(str(marks[form.items[number].id, criterion]))
        page.keyboard.press("Enter")


def saved(page: Any, selector: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.click(selector)
    path: Path = folder / download.value.suggested_filename
    download.value.save_as(str(path))
    return path


def rows_in(path: Path) -> list[dict[str, Any]]:
    """What a saved file says of each sentence, read without the project."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json":
        rows: list[dict[str, Any]] = json.loads(text)["ratings"]
        return rows
    return list(csv.DictReader(io.StringIO(text), delimiter=";" if ";" in text else ","))


def marks_in(path: Path) -> Marks:
    """The marks in a saved file."""
    return {(row["item"], name): int(row[name]) for row in rows_in(path) for name in CRITERIA if row[name]}


def levels_in(path: Path) -> Levels:
    """The levels in a saved file."""
    return {row["item"]: SCALE.index(row["level"]) + 1 for row in rows_in(path) if row["level"]}


def test_the_watch_over_pages_sees_errors_requests_and_bad_contrast(chromium: Any) -> None:
    """What the other tests rely on."""
    page = chromium.new_page()
    problems: list[str] = []
    watch(page, problems)
    page.set_content(
        "<p style='color: #eee'>too faint</p><img alt='' src='http://127.0.0.1:9/x'><script>lost()</script>"
    )
    assert [violation.partition(":")[0] for violation in serious_violations(page)].count("color-contrast") == 1
    page.close()
    assert any("lost is not defined" in problem for problem in problems)
    assert "request: http://127.0.0.1:9/x" in problems


def test_three_raters(form: Form, cefr_batch: Command, store: LocalStore, open_page: OpenPage, tmp_path: Path) -> None:
    files = [
        first_rater(form, open_page(tmp_path / "en.html"), tmp_path),
        second_rater(form, open_page(tmp_path / "tr.html"), tmp_path),
        third_rater(form, open_page(tmp_path / "en.html"), tmp_path),
    ]
    given = [marks_of(form, rater) for rater in range(3)]
    given[2] = {key: mark for key, mark in given[2].items() if key[0] not in ("s03", "s12")}
    assert [marks_in(file) for file in files] == given
    levels = [levels_of(form, rater) for rater in range(3)]
    del levels[2]["s05"]
    assert [levels_in(file) for file in files] == levels

    result = cefr_batch("rate", "import", *map(str, files), "--json")
    assert result.code == 0
    assert "rater Ayşe Öz, form" in result.err
    assert "10 of 12 sentences with all marks, 8 marks missing, 11 with a level" in result.err
    ratings = json.loads(result.out)
    check_levels(form, levels, ratings["levels"])
    assert (ratings["raters"], ratings["items"]) == (3, 12)
    for agreement in ratings["agreement"]:
        units = [[one[item.id, agreement["criterion"]] for one in given if (item.id, agreement["criterion"]) in one]
                 for item in form.items]  # fmt: skip
        expected = ordinal_alpha(units)
        assert expected is not None
        assert 0.2 < expected < 1
        assert agreement["alpha"] == pytest.approx(float(expected), abs=1e-12)
    assert len(ratings["scores"]) == len(RUNS) * 2 * len(CRITERIA)
    for score in ratings["scores"]:
        assert score["mean"] == pytest.approx(mean_of(form, given, score), abs=1e-12)


def check_levels(form: Form, levels: list[Levels], found: dict[str, Any]) -> None:
    """Kappa and alpha are those of plain computations over what the raters did."""
    target = {item.id: SCALE.index(item.level) + 1 for item in form.items}
    for one in found["kappas"]:
        chosen = [item.id for item in form.items if any(source.model == one["model"] for source in item.sources)]
        pairs = [(given[item], target[item]) for given in levels for item in chosen if item in given]
        expected = quadratic_weighted_kappa(pairs, categories=6)
        assert expected is not None
        assert 0 < expected < 1
        assert one["kappa"]["value"] == pytest.approx(float(expected), abs=1e-12)
        assert one["judgements"] == len(pairs)
    together = [[(one[item], other[item]) for item in one if item in other] for one, other in combinations(levels, 2)]
    kappas = [quadratic_weighted_kappa(pairs, categories=6) for pairs in together]
    assert found["agreement"]["kappa"] == pytest.approx(float(sum(k for k in kappas if k) / 3), abs=1e-12)
    alpha = interval_alpha([[given[item.id] for given in levels if item.id in given] for item in form.items])
    assert alpha is not None
    assert found["agreement"]["alpha"] == pytest.approx(float(alpha), abs=1e-12)
    assert found["qualifications"] == {"examiner": 1, "teacher": 1}
    assert found["estimator"]["sentences"] == len(form.items)


def mean_of(form: Form, given: list[Marks], score: dict[str, Any]) -> float:
    """The mean over a model's sentences of the mean over raters."""
    means = []
    for item in form.items:
        if any((source.run, source.model) == (score["run"], score["model"]) for source in item.sources):
            marks = [one[key] for one in given if (key := (item.id, score["criterion"])) in one]
            means.append(sum(marks) / len(marks))
    return sum(means) / len(means)


def first_rater(form: Form, page: Any, folder: Path) -> Path:
    """By keyboard; reloads halfway, is warned of what is missing, goes there, finishes."""
    marks = marks_of(form, 0)
    assert "broken" not in page.title()
    begin(page, "Ayşe Öz", "examiner")
    give_levels(page, form, levels_of(form, 0))
    rate_by_keyboard(page, form, marks, range(5))
    page.keyboard.press(str(marks[form.items[5].id, CRITERIA[0]]))
    page.reload()
    assert page.locator("section:visible").get_attribute("data-item") == form.items[5].id
    assert page.locator("#who").text_content() == "Ayşe Öz"
    assert page.locator("#done").text_content() == "Part 2: 5 of 12 sentences rated"
    assert page.locator("section:visible :checked").count() == 1
    page.keyboard.press(str(marks[form.items[5].id, CRITERIA[1]]))  # the first criterion without a mark
    for criterion in CRITERIA[2:]:
        page.keyboard.press(str(marks[form.items[5].id, criterion]))
    page.keyboard.press("Enter")
    rate_by_keyboard(page, form, marks, range(6, 11))
    page.click("section:visible [data-go=overview]")
    page.click("#finish")
    assert (
        page.locator("#incomplete-text").text_content() == "Sentences not fully rated: 1. Save the file all the same?"
    )
    page.click("#first-missing")
    rate_by_keyboard(page, form, marks, range(11, 12))
    assert page.locator("#missing").text_content() == "All sentences are rated."
    assert page.locator(".list .complete").count() == 12
    by_csv = saved(page, "[data-save=csv]", folder)
    by_json = saved(page, "#finish", folder)
    assert f"Saved as {by_json.name}" in page.locator("#thanks").text_content()
    assert marks_in(by_csv) == marks_in(by_json)
    return by_json


def second_rater(form: Form, page: Any, folder: Path) -> Path:
    """By mouse, in Turkish, jumping about; changes a mark; saves CSV as a Turkish spreadsheet program reads it."""
    begin(page, "r-2", "teacher")
    page.locator("section:visible [data-go=overview]").click()
    for number in reversed(range(12)):
        page.locator(".list button").nth(number).click()
        for level in (levels_of(form, 0), levels_of(form, 1)):
            page.locator("section:visible .levels label").nth(level[form.items[number].id] - 1).click()
        page.locator("section:visible [data-go=overview]").click()
    page.click("#to-second")
    page.click("#begin-second")
    page.locator("section:visible [data-go=overview]").click()
    for number in reversed(range(12)):
        page.locator(".list button").nth(number).click()
        item = form.items[number].id
        for criterion in CRITERIA:
            choices = page.locator(f'section:visible [data-question="{criterion}"] label')
            choices.nth(marks_of(form, 0)[item, criterion] - 1).click()
            choices.nth(marks_of(form, 1)[item, criterion] - 1).click()
        page.locator("section:visible [data-go=overview]").click()
    path = saved(page, "[data-save=csv]", folder)
    assert path.read_bytes().startswith(b"\xef\xbb\xbfform;rater;item;word_usage;")
    return path


def third_rater(form: Form, page: Any, folder: Path) -> Path:
    """Leaves two sentences out, and says so. Another rater has used the same browser; neither sees the other's marks."""
    begin(page, "Ayşe Öz")
    page.keyboard.press("5")
    page.locator("section:visible [data-go=overview]").click()
    page.click("#change")
    begin(page, "R3")
    assert page.locator("input:checked").count() == 0
    give_levels(page, form, {item: level for item, level in levels_of(form, 2).items() if item != "s05"})
    for number, item in enumerate(form.items):
        if item.id not in ("s03", "s12"):
            rate_by_keyboard(page, form, marks_of(form, 2), range(number, number + 1))
        else:
            page.click("section:visible .next")
    page.click("#finish")
    path = saved(page, "#save-anyway", folder)
    page.click("#change")
    begin(page, "Ayşe Öz")
    assert page.locator("input:checked").count() == 1
    return path


def test_the_form_and_the_import_have_one_rule_for_names(form: Form, open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(tmp_path / "en.html")
    names = [
        "Ayşe",
        "  r 1 ",
        "S\u0327a",
        "评估者",
        "नमस्ते",
        "Ⅷ",
        "a.b_c@d-e",
        " ",
        "=1+1",
        "-a",
        "a/b",
        "a,b",
        "</p>",
        "a;b",
        "\u0301a",
    ]
    refused = []
    for name in names:
        page.fill("#rater", name)
        page.click("#enter button")
        if page.locator("#start").is_visible():
            refused.append(name)
        else:
            assert page.locator("#who").text_content() == rater_id(name)
            page.click("section:visible [data-go=overview]")
            page.click("#change")
    assert refused == [name for name in names if rater_id(name) is None]
    assert 5 < len(refused) < len(names)


def test_a_browser_that_keeps_nothing_says_so(form: Form, open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(tmp_path / "en.html")
    page.evaluate(
        "() => { Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') } }"
    )
    assert page.locator("#not-kept").is_hidden()
    begin(page, "r1")
    assert page.locator("#not-kept").is_visible()
    page.keyboard.press("4")
    assert list(levels_in(saved(page, "[data-save=json]", tmp_path)).values()) == [4]


@pytest.mark.parametrize(
    "kept", ["{", "3", '{"ratings": 3}', '{"ratings": [["s02.word_usage", 9], ["x", 3]], "place": "at"}']
)
def test_what_the_form_did_not_keep_is_ignored(kept: str, form: Form, open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(tmp_path / "en.html")
    page.evaluate("([key, value]) => localStorage.setItem(key, value)", [f"cefr-batch-ratings:{form.id}:r1", kept])
    begin(page, "r0")
    page.keyboard.press("5")
    page.click("section:visible [data-go=overview]")
    page.click("#change")
    begin(page, "r1")
    assert page.locator("section:visible").get_attribute("data-item") == form.items[0].id
    assert page.locator("input:checked").count() == 0
    page.keyboard.press("4")
    assert levels_in(saved(page, "[data-save=json]", tmp_path)) == {form.items[0].id: 4}


def test_no_level_can_be_given_once_targets_were_seen_and_none_seen_before(
    form: Form, open_page: OpenPage, tmp_path: Path
) -> None:
    page = open_page(tmp_path / "en.html")
    begin(page, "r1")
    assert page.locator(".asked:visible").count() == 0
    page.keyboard.press("7")  # no such level
    page.keyboard.press("6")
    assert page.locator("#done").text_content() == "Part 1: levels of 1 of 12 sentences given"
    page.locator("section:visible [data-go=overview]").click()
    assert page.locator("#finish").is_hidden()
    page.locator(".list button").nth(4).click()  # still of part 1
    assert page.locator(".asked:visible").count() == 0
    page.locator("section:visible [data-go=overview]").click()
    page.click("#to-second")
    page.reload()
    assert page.locator("#begin-second").is_visible()
    page.click("#begin-second")
    assert page.locator(".asked:visible").count() == 1
    page.click("section:visible [data-go='12']")  # back, to the page between the parts
    page.reload()
    page.evaluate("() => document.querySelector('[data-go=\"0\"]').click()")
    assert page.locator("section:visible .levels input:disabled").count() == 6
    page.keyboard.press("1")
    assert levels_in(saved(page, "[data-save=json]", tmp_path)) == {form.items[0].id: 6}


@pytest.mark.parametrize(
    ("width", "scheme", "language"), [(360, "light", "tr"), (768, "dark", "en"), (1280, "light", "en")]
)
def test_no_serious_finding_of_axe_and_nothing_wider_than_the_screen(
    width: int, scheme: str, language: str, form: Form, open_page: OpenPage, tmp_path: Path
) -> None:
    """CEFR_BATCH_SCREENSHOTS=DIR keeps pictures to look at."""
    page = open_page(tmp_path / f"{language}.html", viewport={"width": width, "height": 800}, color_scheme=scheme)

    def check(view: str) -> None:
        assert serious_violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if folder := os.environ.get("CEFR_BATCH_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"rating-{width}-{scheme}-{view}.png", full_page=True)

    check("start")
    begin(page, "r1")
    page.keyboard.press("4")
    page.locator("section:visible summary").click()
    check("level")
    for _ in form.items:
        page.click("section:visible .next")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    check("between")
    page.click("#begin-second")
    page.keyboard.press("4")
    check("sentence")
    for _ in form.items[1:]:  # one is a word of 300 letters
        page.click("section:visible .next")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("section:visible .next")
    page.click("#finish")
    check("overview")
