"""``cefr-batch doctor``: what jobs would lack on a cluster, as a checklist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from cefr_batch.cli.notice import notice_if_slow
from cefr_batch.cli.options import (
    cluster_option,
    echo_json,
    json_option,
    levels_option,
    session_option,
    settings_options,
)
from cefr_batch.cli.show import sources
from cefr_batch.errors import CefrBatchError
from cefr_batch.runner import Session
from cefr_batch.schedulers import Check, Scheduler


@click.command()
@cluster_option
@click.option(
    "--backend", metavar="NAME", help="Check training with unsloth or peft. Default: the cluster's preference."
)
@levels_option(default=("B1",), show_default="B1")
@settings_options
@json_option
@session_option
def command(
    scheduler: Scheduler[Any],
    backend: str | None,
    levels: Sequence[str],
    profile: str | None,
    overrides: Sequence[str],
    as_json: bool,
    session: Session,
) -> None:
    """Check whether jobs can run on a cluster. Makes the checks that submit makes, and shows those that pass, too. Also
    checks that a level's run has its data and its model and, on this machine, enough disk and memory.

    Exits with 1 if something is wrong.
    """
    from cefr_batch.config.load import load_spec
    from cefr_batch.config.schema import BACKENDS

    given = [f"backend={backend}"] if backend in BACKENDS else []
    specs = [load_spec(level, profile=profile, overrides=[*overrides, *given]) for level in levels]
    with notice_if_slow():
        checks = session.check(scheduler, backend, specs=specs)
    took = [f"{spec.level}: {sources(spec, profile)}" for spec in specs]
    if as_json:
        found = [asdict(check) for check in checks]
        echo_json({"cluster": scheduler.name, "store": session.store.url, "settings": took, "checks": found})
    else:
        click.echo("\n".join([*took, *(_line(check) for check in checks)]))
    wrong = sum(check.refuses for check in checks)
    if wrong:
        raise CefrBatchError(f"{wrong} of {len(checks)} checks failed; jobs would not run on {scheduler.name}")


def _line(check: Check) -> str:
    if not check.problem:
        return f"ok       {check.what}" + (f" ({check.note})" if check.note else "")
    name = check.what.rpartition(" ")[2]
    named = "/" in name and name in check.problem  # the path of a Python, the name of a model
    twice = named or check.problem.startswith(check.what)
    return f"{'maybe' if check.warning else 'WRONG':<8} {'' if twice else f'{check.what}: '}{check.problem}"
