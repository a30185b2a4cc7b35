"""A report → files, by format."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from cefr_batch.plots import write_level_plots
from cefr_batch.report.as_csv import report_csv
from cefr_batch.report.as_json import report_json
from cefr_batch.report.build import build
from cefr_batch.report.collect import Report
from cefr_batch.report.compare import compare
from cefr_batch.report.curves import GRID, OVERLAY
from cefr_batch.report.language import Language
from cefr_batch.report.markdown import render_markdown
from cefr_batch.store import to_json

FORMATS = ("md", "html", "json", "csv")


def render(report: Report, kind: str, language: str, *, pictures: bool = False) -> bytes:
    """The report in one of ``FORMATS``. ``pictures``: those of ``pictures`` lie beside it."""
    if kind == "json":
        return to_json(report_json(report))
    if kind == "csv":
        return report_csv(report).encode()
    document = build(report, Language(language))
    if kind == "md":
        return render_markdown(document, [f"{name}.png" for name in (GRID, OVERLAY)] if pictures else ()).encode()
    from cefr_batch.report.html import render_html

    return render_html(document).encode()


def pictures(report: Report) -> dict[str, bytes]:
    """The curves of all levels as PNG files at 300 DPI, by name; none for a level alone."""
    comparison = compare(report)
    if len(comparison.labels) < 2:
        return {}
    logs = {
        label: [entry.model_dump() for entry in result.metrics.log]
        for label, result in zip(comparison.labels, comparison.results, strict=True)
    }
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{name}.png" for name in (GRID, OVERLAY)]
        write_level_plots(logs, *files)
        return {file.name: file.read_bytes() for file in files}
