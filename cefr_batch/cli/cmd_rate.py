"""``cefr-batch rate``: human evaluation of what the runs' models write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cefr_batch.cli.options import chosen_complete_runs, echo_json, json_option, runs_options, store_option
from cefr_batch.errors import CefrBatchError
from cefr_batch.store import Store

if TYPE_CHECKING:
    from cefr_batch.rating.incoming import Imported
    from cefr_batch.rating.scores import Ratings

_file = click.Path(path_type=Path)


@click.group("rate", short_help="Let people rate what the models wrote, blindly.")
def command() -> None:
    """Let people rate the sentences of the untrained and the tuned models, without knowing whose they are.

    Send the exported form to your raters; import the files that they send back.
    """


@command.command(short_help="Make a rating form, one HTML file.")
@runs_options
@store_option
@click.option("--out", type=_file, metavar="FILE", default="form.html", show_default=True, help="The form.")
@click.option("--items", type=int, metavar="N", default=60, show_default=True, help="How many sentences to rate.")
@click.option("--seed", type=int, metavar="S", default=42, show_default=True, help="Of choice and order.")
@click.option("--lang", type=click.Choice(("en", "tr")), default="en", show_default=True, help="Of the form's texts.")
def export(
    runs: tuple[str, ...], levels: tuple[str, ...], store: Store, out: Path, items: int, seed: int, lang: str
) -> None:
    """Make a form with the runs' sentences, shuffled; which model wrote which is kept in the store alone.

    Of each run the same number of words, chosen at random, and for each word the sentence of the untrained and of the tuned
    model. The form works offline in any browser and keeps a rater's progress there. The same runs, items and seed
    give the same form, in either language.
    """
    from cefr_batch.rating.form import make_form
    from cefr_batch.rating.generated import read_generated
    from cefr_batch.rating.page import form_html
    from cefr_batch.rating.stored import put_form

    form = make_form(read_generated(store, chosen_complete_runs(store, runs, levels)), items, seed)
    html = form_html(form, lang)
    put_form(store, form)
    _write(out, html)
    click.echo(f"wrote {out}: form {form.id}, {len(form.items)} sentences")
    if len(form.items) < items:
        click.echo(
            f"{items} were asked for: every run gives the same number of words with a sentence of both models, as far as it "
            "has them, and what both wrote alike is shown once",
            err=True,
        )


@command.command("import", short_help="Check raters' files, store them, show the result.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=_file)
@store_option
@json_option
def import_(files: Sequence[Path], store: Store, as_json: bool) -> None:
    """Check the files that raters saved (.json, or .csv also from a spreadsheet program) and store them.

    Sentences that were not rated are allowed. A rater's earlier file for the same form is replaced. If anything is wrong in
    any file, all of it is named and nothing is stored.
    """
    from cefr_batch.rating.incoming import import_files
    from cefr_batch.rating.scores import summarize
    from cefr_batch.rating.stored import all_rated

    imported = import_files(store, files)
    for one in imported:
        click.echo(_said(one), err=as_json)
    forms = {one.form.id: one.form for one in imported}
    _show(summarize([(form, all_rated(store, form.id)) for form in forms.values()]), as_json)


@command.command(short_help="Show what was rated.")
@runs_options
@store_option
@json_option
def show(runs: tuple[str, ...], levels: tuple[str, ...], store: Store, as_json: bool) -> None:
    """Means with intervals, tuned against baseline, and how well the raters agree: of these runs, or of all rated."""
    from cefr_batch.rating.scores import collect_ratings

    chosen = chosen_complete_runs(store, runs, levels) if runs or levels else ()
    _show(collect_ratings(store, chosen), as_json)


def _said(one: Imported) -> str:
    gaps = f", {one.missing} marks missing" if one.missing else ""
    again = "; replaces what this rater gave before" if one.replaced else ""
    return (
        f"{one.file}: rater {one.rater}, form {one.form.id}: {one.complete} of {one.items} sentences rated{gaps}{again}"
    )


def _show(ratings: Ratings, as_json: bool) -> None:
    from cefr_batch.rating.table import ratings_json, ratings_markdown

    if as_json:
        echo_json(ratings_json(ratings))
    else:
        click.echo(ratings_markdown(ratings), nl=False)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise CefrBatchError(f"cannot write {path}: {exc.strerror or exc}") from exc
