"""``cefr-batch report``: compare the levels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from cefr_batch.cli.options import json_option, runs_options, session_option
from cefr_batch.errors import NotFound, StoreError, UsageError
from cefr_batch.runner import Session
from cefr_batch.runner.selection import check_run_name, levels_to_report
from cefr_batch.schedulers.base import QUEUED_SECONDS

FORMATS = ("md", "html", "json", "csv")
_SHOWN = 20  # of what a check found


def _formats(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(part.strip().lower() for part in value.split(","))) if value else ()
    for unknown in set(chosen) - set(FORMATS):
        raise UsageError(f"--format: {unknown!r} is not a format; valid, separated by commas: {', '.join(FORMATS)}")
    return chosen


@click.command("report", short_help="Compare the levels.")
@runs_options
@click.option("--run", "more", metavar="RUN", multiple=True, help="The same as RUN. May be repeated.")
@session_option
@json_option
@click.option(
    "--format",
    "formats",
    metavar="FORMATS",
    callback=_formats,
    help="md, html, json, csv, or several separated by commas. Default: md; with --out, all.",
)
@click.option(
    "--lang",
    "language",
    type=click.Choice(("en", "tr")),
    default="en",
    show_default=True,
    help="Language of md and html.",
)
@click.option(
    "--out",
    metavar="PATH",
    help="Print only a line for each level, and write report.md, report.html … and the curves of all levels to this folder "
    "or s3:// address. A file name, as in b1.html, writes that one file.",
)
@click.option(
    "--wait",
    "wait_seconds",
    type=click.IntRange(min=0),
    default=0,
    metavar="SECONDS",
    help="First wait until the named runs have ended, according to their schedulers. If a scheduler cannot be asked, the "
    "store decides, and the wait is at most this long after each run has started.",
)
@click.option(
    "--queued",
    "queued_seconds",
    type=click.IntRange(min=0),
    default=QUEUED_SECONDS,
    metavar="SECONDS",
    help="With --wait: how long to wait for the first or next run to start. Default: a week.",
)
@click.option(
    "--check",
    "checked",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Make no report; check that the objects that this report.json names are unchanged, and that its figures follow "
    "from them.",
)
def command(
    runs: tuple[str, ...],
    more: tuple[str, ...],
    levels: tuple[str, ...],
    session: Session,
    as_json: bool,
    formats: tuple[str, ...],
    language: str,
    out: str | None,
    wait_seconds: int,
    queued_seconds: int,
    checked: Path | None,
) -> None:
    """Compare the levels side by side.

    Each level is shown by its newest complete run and those that repeat it with other seeds, or by its state if none is
    complete. Without RUN and --level: every level that has a run.
    """
    from cefr_batch.report.render import headlines
    from cefr_batch.report.write import check_out, make_report, render, write_files

    named = (*runs, *more)
    if checked:
        if named or levels or formats or out or as_json or wait_seconds:
            raise UsageError("--check takes the runs that the file names, and no other option than --store")
        _check(session, checked)
        return
    formats = tuple(dict.fromkeys((*formats, *(("json",) if as_json and not out else ()))))
    if not out and len(formats) > 1:
        raise UsageError(f"{len(formats)} formats cannot be printed at once; --out FOLDER writes them")
    if out:
        check_out(out, formats)
    ended = False
    if wait_seconds:
        named, ended = _wait(session, named, wait_seconds, queued_seconds)
    chosen = session.find(named) if named else []
    with _nothing_to_do_if(ended):
        report = make_report(session.store, runs=chosen, levels=levels_to_report(session.store, levels))
    if out:
        files = write_files(report, out, formats, language)
        if not as_json:
            click.echo("\n".join(headlines(report, language)))
        click.echo(f"wrote {', '.join(files)}", err=True)
    if as_json or not out:
        kind = "json" if as_json else (*formats, "md")[0]
        click.echo(render(report, kind, language), nl=False)


def _check(session: Session, file: Path) -> None:
    from cefr_batch.report.check import check_report

    found = check_report(session.store, file)
    if found.objects:
        what = f"{file} cannot be recomputed, since some of what it was made from has changed or is missing now"
        intended = "make the report again with --out if that was intended (as after `rate import`)"
        _fail(f"{what}; {intended}; otherwise restore these from a copy:", found.objects)
    if found.differences:
        hint = (
            f" (it was written by version {found.made_by}, which may compute differently)"
            if found.other_version
            else ""
        )
        what = f"{len(found.differences)} values of {file} do not follow from the store{hint}"
        _fail(f"{what}; make the report again with --out if nobody meant to change them:", found.differences)
    click.echo(
        f"{file} agrees with {session.store.url}: {found.compared_objects} objects are those that it was made from, and its "
        f"{found.compared_values} values follow from them"
    )


def _fail(what: str, details: Sequence[object]) -> None:
    more = [f"  and {len(details) - _SHOWN} more"] if len(details) > _SHOWN else []
    raise StoreError("\n".join([what, *(f"  {detail}" for detail in details[:_SHOWN]), *more]))


@contextmanager
def _nothing_to_do_if(ended: bool) -> Iterator[None]:
    """Where all runs have ended without a result, end well: a cluster would start the report's job again, in vain."""
    try:
        yield
    except NotFound as exc:
        if not ended:
            raise
        click.echo(f"no report was written: {exc}; once one is complete, `cefr-batch report` makes it", err=True)
        click.get_current_context().exit(0)


def _wait(session: Session, runs: Sequence[str], seconds: int, queued: int) -> tuple[tuple[str, ...], bool]:
    """The runs that there are by then, one whose job claims it itself exists from its start on; and whether all ended."""
    if not runs:
        raise UsageError("--wait needs the names of the runs to wait for")
    for run in set(runs) - set(session.runs()):
        check_run_name(run)
        click.echo(f"waiting for {run}, which is not in {session.store.url} yet", err=True)
    late = session.wait_in_job(runs, seconds, queued_seconds=queued)
    for run in late:
        when = f"{seconds} s after its start, or {queued} s without having started"
        click.echo(f"warning: {run} has not ended ({when}); the report does not have its result", err=True)
    known = set(session.runs())
    return tuple(run for run in runs if run in known) or tuple(runs), not late
