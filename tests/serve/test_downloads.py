"""What a teacher takes away: the same sentences as a table for spreadsheets, and as a document."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import pytest
from docx import Document
from support.serving import Free, Reply, Site, running

from cefr_batch.serve.writing import Writing
from cefr_batch.store.local import LocalStore

SHEET: dict[str, Any] = {
    "columns": ["A1 (tiny-a1-peft-v1, trained for A1)", "untrained, asked for A1"],
    "words": ["travel", "=1+1"],
    "rows": [
        [{"text": "I travel; often, \"alone\".", "level": "level A1 (estimated 1.4)"}, {"text": "", "level": ""}],
        [{"text": "+cmd|' /C calc'!A0", "level": ""}, {"text": "Naïve <b>café</b> \x0b 🙂", "level": "level B1"}],
    ],
}  # fmt: skip


@pytest.fixture
def site(store: LocalStore) -> Iterator[Site]:
    with running(store, Writing(Free("1."))) as site:
        yield site


def download(site: Site, kind: str, language: str = "en") -> Reply:
    reply = site.post(f"/download?lang={language}", {"kind": kind, **SHEET})
    assert reply.status == 200
    assert reply.headers["content-disposition"] == f'attachment; filename="sentences.{kind}"'
    return reply


@pytest.mark.parametrize(("language", "separator", "first"), [("en", ",", "word"), ("tr", ";", "kelime")])
def test_a_csv_file_opens_in_columns_and_holds_no_formula(
    language: str, separator: str, first: str, site: Site
) -> None:
    data = download(site, "csv", language).data
    assert data.startswith(b"\xef\xbb\xbf")
    head, *rows = csv.reader(io.StringIO(data.decode("utf-8-sig")), delimiter=separator)
    assert head[0] == first
    assert len(rows) == 4
    assert rows[0][2] == "I travel; often, \"alone\"."  # fmt: skip
    assert rows[2][0] == "'=1+1"
    assert rows[2][2].startswith("'+cmd")


def test_a_document_has_the_table_with_its_head_on_every_page(site: Site) -> None:
    document = Document(io.BytesIO(download(site, "docx", "tr").data))
    assert document.paragraphs[0].text == "Düzeylere göre cümleler"
    (table,) = document.tables
    cells = [[cell.text for cell in row.cells] for row in table.rows]
    assert cells[0] == ["kelime", *SHEET["columns"]]
    assert cells[1][1] == "I travel; often, \"alone\".\n(level A1 (estimated 1.4))"  # fmt: skip
    assert cells[2][2] == "Naïve <b>café</b>  🙂\n(level B1)"
    assert "tblHeader" in table.rows[0]._tr.xml
    section = document.sections[0]
    assert (section.page_width or 0) > (section.page_height or 0) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [{"kind": "exe"}, {"rows": []}, {"rows": SHEET["rows"][:1]}, {"columns": ["one"]}, {"words": ["x" * 9999, "y"]}],
)
def test_a_table_with_holes_is_refused(wrong: dict[str, Any], site: Site) -> None:
    assert site.post("/download", {"kind": "csv", **SHEET, **wrong}).status == 422
