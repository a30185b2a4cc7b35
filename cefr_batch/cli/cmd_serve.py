"""``cefr-batch serve``: a local web page to try models, and to look at the runs of the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from cefr_batch.cli.options import runs_options, session_option
from cefr_batch.cli.progress import byte_progress
from cefr_batch.cli.signals import interrupted_by_signals
from cefr_batch.errors import CefrBatchError, UsageError
from cefr_batch.runner import Session

if TYPE_CHECKING:
    from cefr_batch.serve.writing import Writing


@click.command()
@runs_options
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: any free port.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on. If others can reach it, they can use the page.",
)
@click.option("--gguf", is_flag=True, help="Use the runs' GGUF exports in the store with llama.cpp, without torch.")
@session_option
def command(runs: Sequence[str], levels: Sequence[str], port: int, host: str, gguf: bool, session: Session) -> None:
    """Try the models of complete runs side by side in a web browser, and look at the runs of the store.

    Without RUN and --level, only the runs are shown, and no model is loaded. Nothing in the store is changed. Ctrl-C ends
    it.
    """
    chosen = session.find(runs, levels, complete=True) if runs or levels else []
    if gguf and not chosen:
        raise UsageError("--gguf needs runs or --level: without them no model is served")
    try:
        with interrupted_by_signals():
            _serve(session, chosen, host, port, gguf=gguf)
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


def _serve(session: Session, runs: Sequence[str], host: str, port: int, *, gguf: bool) -> None:
    try:
        from cefr_batch.serve.guard import is_loopback
        from cefr_batch.serve.server import serve
    except ModuleNotFoundError as exc:
        raise CefrBatchError(
            f"the page needs {exc.name}, which is not installed; run: pip install 'cefr-batch[train,serve]'"
        ) from exc
    if not is_loopback(host):
        click.echo(f"warning: everybody who can reach {host} can read the runs and use the models", err=True)
    writing = _writing(session, runs, gguf=gguf) if runs else None
    serve(session, host, port, writing, lambda url: click.echo(f"serving {url} (Ctrl-C ends it)", err=True))


def _writing(session: Session, runs: Sequence[str], *, gguf: bool) -> Writing:
    from cefr_batch.serve.writers import GgufWriter, RunsWriter
    from cefr_batch.serve.writing import Writing

    click.echo(f"loading {', '.join(runs)} …", err=True)
    return Writing(GgufWriter(session, runs, byte_progress) if gguf else RunsWriter(session, runs, byte_progress))
