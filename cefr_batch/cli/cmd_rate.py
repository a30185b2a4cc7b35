"""``cefr-batch rate``: human evaluation of what the runs' models write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cefr_batch.cli.options import echo_json, json_option, runs_options, session_option
from cefr_batch.errors import CefrBatchError
from cefr_batch.runner import Session

if TYPE_CHECKING:
    from cefr_batch.human_eval.scores import Ratings
    from cefr_batch.human_eval.submissions import Imported

_file = click.Path(path_type=Path)


@click.group("rate", short_help="Let people rate the models' sentences blindly.")
def command() -> None:
    """Let people rate the sentences of the untrained and the tuned models, without knowing whose they are.

    Send the exported form to your raters; import the files that they send back. Raters first say which CEFR level each
    sentence is at, and only then see which one it was written for.
    """


@command.command(short_help="Make a rating form, one HTML file.")
@runs_options
@session_option
@click.option("--out", type=_file, metavar="FILE", default="form.html", show_default=True, help="The form.")
@click.option("--items", type=int, metavar="N", default=60, show_default=True, help="How many sentences to rate.")
@click.option(
    "--seed", type=int, metavar="S", default=42, show_default=True, help="Random seed of the choice and the order."
)
@click.option("--lang", type=click.Choice(("en", "tr")), default="en", show_default=True, help="Language of the form.")
def export(
    runs: tuple[str, ...], levels: tuple[str, ...], session: Session, out: Path, items: int, seed: int, lang: str
) -> None:
    """Make a form with the runs' sentences, shuffled; which model wrote which is recorded in the store only.

    It has the same number of randomly chosen words from each run, and for each word the sentences of the untrained and
    of the tuned model. The form works offline in any browser and keeps a rater's progress there. The same runs, items
    and seed give the same form, in either language.
    """
    from cefr_batch.human_eval.form import make_form, why_fewer
    from cefr_batch.human_eval.generated import read_generated
    from cefr_batch.human_eval.page import form_html
    from cefr_batch.human_eval.stored import put_form

    generated = read_generated(session.store, session.find(runs, levels, complete=True))
    form = make_form(generated, items, seed)
    html = form_html(form, lang)
    put_form(session.store, form)
    _write(out, html)
    click.echo(f"wrote {out}: form {form.id}, {len(form.items)} sentences")
    if len(form.items) < items:
        click.echo(f"note: fewer than the {items} asked for:", err=True)
        for reason in why_fewer(form, generated, items):
            click.echo(f"  {reason}", err=True)


@command.command("import", short_help="Check raters' files, store them, show the result.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=_file)
@session_option
@json_option
def import_(files: Sequence[Path], session: Session, as_json: bool) -> None:
    """Check the files that raters saved (.json, or .csv also from a spreadsheet program) and store them.

    Sentences without ratings are allowed. A rater's earlier file for the same form is replaced. If anything is wrong in
    any file, every problem is named and nothing is stored.
    """
    from cefr_batch.human_eval.scores import summarize
    from cefr_batch.human_eval.stored import all_rated
    from cefr_batch.human_eval.submissions import import_files

    imported = import_files(session.store, files)
    for one in imported:
        click.echo(_said(one), err=as_json)
    forms = {one.form.id: one.form for one in imported}
    if not as_json:
        which = "this form" if len(forms) == 1 else "these forms"
        click.echo(f"\nResults of {which} alone (`cefr-batch rate show` counts all forms):")
    _show(summarize([(form, all_rated(session.store, form.id)) for form in forms.values()]), as_json)


@command.command(short_help="Show the ratings.")
@runs_options
@session_option
@json_option
def show(runs: tuple[str, ...], levels: tuple[str, ...], session: Session, as_json: bool) -> None:
    """Show the ratings of these runs, or of all rated runs.

    Shows mean ratings with intervals, the tuned model against the baseline, how far the sentences' rated levels are from
    their target, and how far the raters agree with each other and with the level estimator.
    """
    from cefr_batch.human_eval.scores import collect_ratings

    chosen = session.find(runs, levels, complete=True) if runs or levels else ()
    ratings = collect_ratings(session.store, chosen)
    for reason in ratings.left_out:
        click.echo(f"warning: {reason}; what raters gave for this form is left out", err=True)
    _show(ratings, as_json)


def _said(one: Imported) -> str:
    gaps = f", {one.missing} marks missing" if one.missing else ""
    gaps += f", {one.levels} with a level" if one.levels else ", no levels given"
    again = "; replaces this rater's earlier file" if one.replaced else ""
    rated = f"{one.complete} of {one.items} sentences with all marks{gaps}{again}"
    return f"{one.file}: rater {one.rater}, form {one.form.id}: {rated}"


def _show(ratings: Ratings, as_json: bool) -> None:
    from cefr_batch.human_eval.table import ratings_json, ratings_markdown

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
