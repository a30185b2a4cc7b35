"""The page's table as a file for spreadsheets or word processors."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from cefr_batch.errors import CefrBatchError
from cefr_batch.i18n.language import Language
from cefr_batch.report.as_csv import csv_cell
from cefr_batch.serve.requests import PageRequest

CSV, DOCX = "text/csv; charset=utf-8", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
_MOST_TEXT = 5_000
_SEPARATORS = {"tr": ";"}  # as spreadsheet programs of that language expect; elsewhere a comma

Line = Annotated[str, Field(max_length=_MOST_TEXT)]


class Cell(PageRequest):
    """A sentence, and its estimated level in words; both empty where there is none."""

    text: Line
    level: Line


class SavedTable(PageRequest):
    """What the page shows: for each word a row, with a cell of each column."""

    kind: Literal["csv", "docx"]
    columns: Annotated[list[Line], Field(min_length=1, max_length=100)]
    words: Annotated[list[Line], Field(min_length=1, max_length=1_000)]
    rows: Annotated[list[list[Cell]], Field(min_length=1, max_length=1_000)]

    @property
    def is_whole(self) -> bool:
        """Whether every word has a cell of every column."""
        return len(self.rows) == len(self.words) and all(len(row) == len(self.columns) for row in self.rows)


def as_csv(sheet: SavedTable, t: Language) -> bytes:
    """UTF-8 with a byte order mark, which spreadsheet programs want; a row for each sentence."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=_SEPARATORS.get(t.code, ","))
    writer.writerow([t.text("word"), t.text("model"), t.text("sentence"), t.text("estimated level")])
    for word, row in zip(sheet.words, sheet.rows, strict=True):
        for column, cell in zip(sheet.columns, row, strict=True):
            writer.writerow(map(csv_cell, (word, column, cell.text, cell.level)))
    return b"\xef\xbb\xbf" + text.getvalue().encode()


def as_docx(sheet: SavedTable, t: Language) -> bytes:
    """A document in landscape with one table: a row for each word, a column for each model. Raises ``CefrBatchError`` where
    python-docx is not installed."""
    try:
        from docx import Document
        from docx.enum.section import WD_ORIENT
    except ModuleNotFoundError as exc:
        raise CefrBatchError(f"DOCX needs {exc.name}, which is not installed; pip install 'cefr-batch[serve]'") from exc
    document = Document()
    section = document.sections[0]
    section.orientation = WD_ORIENT.LANDSCAPE
    section.page_width, section.page_height = section.page_height, section.page_width
    document.core_properties.title = t.text("Sentences by level")
    document.add_heading(t.text("Sentences by level"), level=1)
    table = document.add_table(rows=1, cols=1 + len(sheet.columns), style="Table Grid")
    _fill(table.rows[0].cells, [t.text("word"), *sheet.columns], bold=True)
    _repeat_on_each_page(table.rows[0])
    for word, row in zip(sheet.words, sheet.rows, strict=True):
        cells = table.add_row().cells
        _fill(cells[:1], [word], bold=True)
        _fill(cells[1:], [f"{cell.text}\n({cell.level})" if cell.level else cell.text for cell in row])
    data = io.BytesIO()
    document.save(data)
    return data.getvalue()


def _fill(cells: Sequence[Any], texts: Sequence[str], *, bold: bool = False) -> None:
    for cell, text in zip(cells, texts, strict=True):
        run = cell.paragraphs[0].add_run(_in_xml(text))
        run.bold = bold


def _in_xml(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(character for character in text if character.isprintable() or character == "\n")


def _repeat_on_each_page(row: Any) -> None:
    from docx.oxml import OxmlElement

    row._tr.get_or_add_trPr().append(OxmlElement("w:tblHeader"))
