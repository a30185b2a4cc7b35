"""``cefr-batch verify``: compare what is stored with what was stored."""

from __future__ import annotations

from collections.abc import Sequence

import click

from cefr_batch.cli.options import runs_options, session_option
from cefr_batch.cli.progress import byte_progress
from cefr_batch.cli.show import size
from cefr_batch.errors import StoreError, Unavailable
from cefr_batch.runner import Session


@click.command()
@runs_options
@session_option
def command(runs: Sequence[str], levels: Sequence[str], session: Session) -> None:
    """Check complete runs against their manifests: every object's size and SHA-256. Writes nothing."""
    wrong: list[str] = []
    failed: list[str] = []
    for run in session.find(runs, levels, complete=True):
        try:
            found = session.verify(run, byte_progress)
        except StoreError as exc:
            failed.append(str(exc))
            if isinstance(exc, Unavailable):
                break  # the other runs are in the same store
            continue
        wrong += [f"  {where}: {what}" for where, what in found.problems.items()]
        if not found.problems:
            click.echo(f"{run}: {found.objects} objects, {size(found.size)}, match its manifest")
    if wrong:
        number = "1 object is" if len(wrong) == 1 else f"{len(wrong)} objects are"
        failed.append("\n".join([f"{number} not as recorded, or cannot be read:", *wrong]))
    if failed:
        raise StoreError("\n".join(failed))
