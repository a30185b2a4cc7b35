"""``cefr-batch report``: compare the levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

import click

from cefr_batch.cli.options import chosen_runs, echo_json, json_option, runs_options, store_option
from cefr_batch.errors import NotFound
from cefr_batch.store import Store, open_store, store_folder, to_json

if TYPE_CHECKING:
    from cefr_batch.report.collect import Report

NAME = "report"  # of the files in --out's folder


@click.command("report", short_help="Compare the levels.")
@runs_options
@store_option
@json_option
@click.option(
    "--out",
    metavar="PATH",
    help="Write report.md and report.json to this folder or s3:// address (or, with a file's name, under that) instead "
    "of printing.",
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
    runs: tuple[str, ...], levels: tuple[str, ...], store: Store, as_json: bool, out: str | None, wait_seconds: int
) -> None:
    """What the runs brought, and the levels side by side, as Markdown.

    Each level is shown by its newest complete run, or by its state if none is complete. Without RUN and --level: every
    level that has a run.
    """
    from cefr_batch.report.as_json import report_json
    from cefr_batch.report.collect import collect
    from cefr_batch.report.markdown import report_markdown

    if wait_seconds:
        _wait(store, runs, wait_seconds)
    report = collect(store, runs=chosen_runs(store, runs, ()) if runs else (), levels=levels)
    if not any(entry.result for entry in report.entries):
        raise NotFound(_nothing(report))
    if out is not None:
        _write(out, report_markdown(report), to_json(report_json(report)))
    if as_json:
        echo_json(report_json(report))
    elif out is None:
        click.echo(report_markdown(report), nl=False)


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


def _write(out: str, markdown: str, json: bytes) -> None:
    """A folder is a store like any other. Each file whole or not at all."""
    address = urlsplit(out if "://" in out else quote(out))
    folder, _, name = address.path.rpartition("/")
    named = name.endswith((".md", ".json"))
    place = address._replace(path=folder if named else address.path)
    target = open_store(place.geturl() if place.scheme else unquote(place.path) or ".")
    stem = unquote(name).rpartition(".")[0] if named else NAME
    files = {f"{stem}.md": markdown.encode(), f"{stem}.json": json}
    for file, data in files.items():
        target.put(file, data)
    local = store_folder(target.url)
    click.echo(f"wrote {' and '.join(str(local / file) if local else target.locate(file) for file in files)}", err=True)
