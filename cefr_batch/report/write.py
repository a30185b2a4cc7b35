"""A report → files, by format. ``write_report`` is the whole way from the store."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from urllib.parse import SplitResult, quote, unquote, urlsplit

from cefr_batch.errors import NotFound, UsageError
from cefr_batch.report.as_csv import report_csv
from cefr_batch.report.as_json import report_json
from cefr_batch.report.collect import Report, collect
from cefr_batch.report.pictures import pictures
from cefr_batch.store import Store, open_store, store_folder, to_json

FORMATS = ("md", "html", "json", "csv")
_OTHER_FILES = "pdf doc docx odt rtf xls xlsx ods txt htm tex yaml zip png svg"
NAME = "report"  # of the files in a folder


def write_report(
    store: Store,
    out: str,
    *,
    runs: Sequence[str] = (),
    levels: Sequence[str] = (),
    formats: Sequence[str] = (),
    language: str = "en",
) -> list[str]:
    """Compare runs of a store and write the report; return where its files are. Blocks on the store; idempotent.

    ``out`` is a folder, an ``s3://`` address or one file's name. Without ``runs`` and ``levels``: every level that has
    a run; without ``formats``: all of them. ``language``: ``en`` or ``tr``. Raises ``NotFound`` if no run is complete.
    """
    return write_files(make_report(store, runs=runs, levels=levels), out, formats, language)


def make_report(store: Store, *, runs: Sequence[str] = (), levels: Sequence[str] = ()) -> Report:
    """As ``collect``, but raises ``NotFound`` if no run is complete."""
    report = collect(store, runs=runs, levels=levels)
    if not any(entry.result for entry in report.entries):
        raise NotFound(_nothing(report))
    return report


def write_files(report: Report, out: str, formats: Sequence[str] = (), language: str = "en") -> list[str]:
    """Write the report to a folder, an ``s3://`` address or one file; return where its files are.

    Each file is written whole or not at all. Raises ``UsageError`` where a file's name and the formats contradict each
    other.
    """
    check_out(out, formats)
    address, stem, ending = _split(out)
    named = ending in FORMATS
    place = address._replace(path=address.path.rpartition("/")[0]) if named else address
    target = open_store(place.geturl() if place.scheme else unquote(place.path, errors="surrogateescape") or ".")
    if named:
        files = {f"{stem}.{ending}": render(report, ending, language)}
    else:
        drawn = pictures(report, language)
        files = {f"{NAME}.{kind}": render(report, kind, language, shown=drawn) for kind in formats or FORMATS}
        files |= drawn
    for file, data in files.items():
        target.put(file, data)
    local = store_folder(target.url)
    return [str(local / file) if local else target.locate(file) for file in files]


def check_out(out: str, formats: Sequence[str]) -> None:
    """Raises ``UsageError`` for a file of another format than a report has, or than ``formats`` asks for."""
    _, _, ending = _split(out)
    if ending.lower() in _OTHER_FILES.split():
        raise UsageError(
            f"--out {out}: a report is written as {', '.join(FORMATS)}; name such a file, or a folder for all"
        )
    if ending in FORMATS and tuple(formats) not in ((), (ending,)):
        raise UsageError(f"--out {out} names one file, --format {','.join(formats)} asks for others; name a folder")


def _split(out: str) -> tuple[SplitResult, str, str]:
    """An address or path, and its last name's stem and ending (empty if it has none)."""
    address = urlsplit(out if "://" in out else quote(out, errors="surrogateescape"))
    stem, _, ending = unquote(address.path.rpartition("/")[2], errors="surrogateescape").rpartition(".")
    return address, stem, ending if stem else ""


def _nothing(report: Report) -> str:
    if not report.entries:
        return f"there are no runs in {report.store}; `cefr-batch submit` starts some"
    what = []
    for entry in report.entries:
        counts = [one for one in entry.passed if one.run == entry.newest or not one.settled]
        found = [(one.run, one.state.value, one.reason) for one in counts]
        for name, state, why in found or [(entry.newest or entry.level, entry.state, entry.reason)]:
            what.append(f"{name} is {state}{f' ({why.splitlines()[0]})' if why else ''}")
    return f"no complete run to report in {report.store}: {'; '.join(what)}"


def render(report: Report, kind: str, language: str, *, shown: Collection[str] = ()) -> bytes:
    """The report in one of ``FORMATS``. ``shown``: the names of the files of ``pictures`` that lie beside it."""
    if kind == "json":
        return to_json(report_json(report))
    if kind == "csv":
        return report_csv(report, language)
    from cefr_batch.report.render import html_report, markdown_report

    if kind == "md":
        return markdown_report(report, language, shown).encode()
    return html_report(report, language).encode()
