"""A report → Markdown or HTML text. ``SECTIONS`` lists what a report holds, once for both."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from cefr_batch.i18n.language import N_
from cefr_batch.report import (
    generation_tables,
    interpretation,
    level_tables,
    matrix_tables,
    measured_tables,
    rating_tables,
    run_tables,
    study_tables,
    verdict_words,
    verdicts,
)
from cefr_batch.report.blocks import Blocks, MarkdownBlocks
from cefr_batch.report.collect import Report
from cefr_batch.report.compare import compare
from cefr_batch.report.curves import PICTURES, grid, overlay, run_charts
from cefr_batch.report.markdown import Markdown, ReportLanguage, code, joined, plain, text_of
from cefr_batch.report.matrix import matrix

TITLE = N_("CEFR fine-tuning results")
# templates/sections/, in the report's order
SECTIONS = (
    "opening",
    "measured_levels",
    "definitions",
    "overview",
    "comparison",
    "matrix",
    "levels",
    "searches",
    "ratings",
)


def markdown_report(report: Report, language: str, pictures: Collection[str] = ()) -> str:
    """The report as a Markdown file. ``pictures``: the names of files that lie beside it and are shown."""
    t = ReportLanguage(language)
    return f"# {t(TITLE)}\n\n{_filled(report, t, MarkdownBlocks(pictures))}"


def html_report(report: Report, language: str) -> str:
    """The report as one HTML page: no other file, no network."""
    from cefr_batch.report.page import PageBlocks

    t = ReportLanguage(language)
    page = PageBlocks(t)
    text = _filled(report, t, page)
    return page.whole(t(TITLE), text, [report.label(entry) for entry in report.entries])


def headlines(report: Report, language: str) -> list[str]:
    """For each level the verdict, how sure it is, and what training gained, each one line of plain text."""
    t = ReportLanguage(language)
    lines = [verdict_words.line(card, t) for card in verdicts.cards(report, compare(report))]
    return [text_of(line) for line in lines]


def _filled(report: Report, t: ReportLanguage, blocks: Blocks) -> str:
    template = _environment().get_template("report.md.jinja")
    text = template.render(
        t=t, report=report, comparison=compare(report), blocks=blocks, table=blocks.table, charts=blocks.charts,
        section=blocks.section, sections=SECTIONS, crossed=matrix(report),
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)).strip("\n") + "\n"


@cache
def _environment() -> Environment:
    """Templates of Markdown: a value is escaped unless it is Markdown already."""
    environment = Environment(
        loader=PackageLoader("cefr_batch.report", "templates"),
        autoescape=True,  # keeps Markdown apart from other text; how that is escaped, ``finalize`` says
        finalize=Markdown.escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"join": joined, "verbatim": lambda text: Markdown(plain(text))}
    environment.globals |= {
        "code": code,
        "levels": level_tables,
        "crosswise": matrix_tables,
        "runs": run_tables,
        "generated": generation_tables,
        "rated": rating_tables,
        "searches": study_tables,
        "interpretation": interpretation,
        "verdicts": verdicts,
        "words": verdict_words,
        "measured": measured_tables,
        "pictures": PICTURES,
        "curves": {"grid": grid, "overlay": overlay, "of_run": run_charts},
    }
    return environment
