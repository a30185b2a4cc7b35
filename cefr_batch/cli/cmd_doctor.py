"""``cefr-batch doctor``: what a place for jobs lacks, as a checklist."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from cefr_batch.cli.options import cluster_option, echo_json, json_option, store_option
from cefr_batch.errors import CefrBatchError
from cefr_batch.launch import Launcher
from cefr_batch.launch.base import Check
from cefr_batch.store import Store


@click.command()
@cluster_option
@click.option("--backend", metavar="NAME", help="For training with unsloth or peft. Default: what the place prefers.")
@json_option
@store_option
def command(launcher: Launcher[Any], backend: str | None, as_json: bool, store: Store) -> None:
    """Check whether jobs can run at a place: what submit checks before it starts anything, whether or not it is well.

    Exits with 1 if something is wrong.
    """
    from cefr_batch.launch.prepare import check_store

    backends = [backend] if backend else list(launcher.backends())[:1]
    checks = [*launcher.check(backends, store.url), check_store(store)]
    if as_json:
        echo_json({"cluster": launcher.name, "store": store.url, "checks": [asdict(check) for check in checks]})
    else:
        click.echo("\n".join(_line(check) for check in checks))
    wrong = sum(1 for check in checks if check.problem and not check.warning)
    if wrong:
        raise CefrBatchError(f"{wrong} of {len(checks)} checks failed; jobs would not run at {launcher.name}")


def _line(check: Check) -> str:
    if not check.problem:
        return f"ok       {check.what}" + (f" ({check.note})" if check.note else "")
    return f"{'maybe' if check.warning else 'WRONG':<8} {check.what}: {check.problem}"
