"""``cefr-batch report``: compare the levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

import click

from cefr_batch.cli.options import chosen_runs, json_option, runs_options, store_option
from cefr_batch.errors import NotFound, UsageError
from cefr_batch.store import Store, open_store, store_folder

if TYPE_CHECKING:
    from cefr_batch.report.collect import Report

NAME = "report"  # of the files in --out's folder
FORMATS = ("md", "html", "json", "csv")


def _formats(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(part.strip().lower() for part in value.split(","))) if value else ()
    for unknown in set(chosen) - set(FORMATS):
        raise UsageError(f"--format: {unknown!r} is not a format; valid, with commas between: {', '.join(FORMATS)}")
    return chosen


@click.command("report", short_help="Compare the levels.")
@runs_options
@click.option("--run", "more", metavar="RUN", multiple=True, help="As RUN. May be repeated.")
@store_option
@json_option
@click.option(
    "--format",
    "formats",
    metavar="FORMATS",
    callback=_formats,
    help="md, html, json, csv, or several with commas between. Default: md; with --out, all.",
)
@click.option(
    "--lang", "language", type=click.Choice(("en", "tr")), default="en", show_default=True, help="Of md and html."
)
@click.option(
    "--out",
    metavar="PLACE",
    help="Write report.md, report.html … and the curves of all levels to this folder or s3:// address, instead of printing. "
    "A file's name, as in b1.html, writes that one file.",
)
@click.option(
    "--wait",
    "wait_seconds",
    type=click.IntRange(min=0),
    default=0,
    metavar="SECONDS",
    help="Wait until the runs named have ended, so long at most, as the store tells it.",
)
def command(
    runs: tuple[str, ...],
    more: tuple[str, ...],
    levels: tuple[str, ...],
    store: Store,
    as_json: bool,
    formats: tuple[str, ...],
    language: str,
    out: str | None,
    wait_seconds: int,
) -> None:
    """What the runs brought, and the levels side by side.

    Each level is shown by its newest complete run and those that repeat it with other seeds, or by its state if none is
    complete. Without RUN and --level: every level that has a run.
    """
    from cefr_batch.report.collect import collect
    from cefr_batch.report.write import render

    named = (*runs, *more)
    formats = tuple(dict.fromkeys((*formats, *(("json",) if as_json and not out else ()))))
    if not out and len(formats) > 1:
        raise UsageError(f"{len(formats)} formats cannot be printed at once; --out FOLDER writes them")
    if wait_seconds:
        _wait(store, named, wait_seconds)
    report = collect(store, runs=chosen_runs(store, named, ()) if named else (), levels=levels)
    if not any(entry.result for entry in report.entries):
        raise NotFound(_nothing(report))
    if out:
        _write(report, out, formats, language)
    if as_json or not out:
        kind = "json" if as_json else (*formats, "md")[0]
        click.echo(render(report, kind, language), nl=False)


def _wait(store: Store, runs: Sequence[str], seconds: int) -> None:
    from cefr_batch.launch.ended import wait_until_ended

    for run in wait_until_ended(store, chosen_runs(store, runs, ()), seconds):
        click.echo(f"warning: after {seconds} s {run} has not ended; the report is without its result", err=True)


def _nothing(report: Report) -> str:
    if not report.entries:
        return f"there are no runs in {report.store}; `cefr-batch submit` starts some"
    what = []
    for entry in report.entries:
        reason = f" ({entry.reason.splitlines()[0]})" if entry.reason else ""
        what.append(f"{entry.newest or entry.level} is {entry.state}{reason}")
    return f"no complete run to report in {report.store}: {'; '.join(what)}"


def _write(report: Report, out: str, formats: tuple[str, ...], language: str) -> None:
    """A folder is a store like any other. Each file whole or not at all."""
    from cefr_batch.report.write import pictures, render

    address = urlsplit(out if "://" in out else quote(out))
    folder, _, name = address.path.rpartition("/")
    stem, dot, ending = unquote(name).rpartition(".")
    named = bool(stem and dot) and ending in FORMATS
    if named and formats not in ((), (ending,)):
        raise UsageError(f"--out {out} names one file, --format {','.join(formats)} asks for others; name a folder")
    place = address._replace(path=folder if named else address.path)
    target = open_store(place.geturl() if place.scheme else unquote(place.path) or ".")
    if named:
        files = {f"{stem}.{ending}": render(report, ending, language)}
    else:
        drawn = pictures(report)
        files = {f"{NAME}.{kind}": render(report, kind, language, pictures=bool(drawn)) for kind in formats or FORMATS}
        files |= drawn
    for file, data in files.items():
        target.put(file, data)
    local = store_folder(target.url)
    click.echo(f"wrote {', '.join(str(local / file) if local else target.locate(file) for file in files)}", err=True)
