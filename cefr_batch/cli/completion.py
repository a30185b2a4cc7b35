"""What the shell completes: levels, profiles, clusters with their sites, runs. See docs/shell-completion.md."""

from __future__ import annotations

import click

from cefr_batch.errors import CefrBatchError

_SECONDS = 2.0  # for the names of the runs: a store may be far away, or gone


def complete_levels(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Levels; after a comma, too."""
    from cefr_batch.config.schema import Level

    before, comma, last = incomplete.rpartition(",")
    names = [*(level.value for level in Level), "all"]
    return [f"{before}{comma}{name}" for name in names if name.upper().startswith(last.upper())]


def complete_profiles(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The names of profiles."""
    from cefr_batch.config.layers import settings_files

    return [name for name in settings_files("jobs", "profiles") if name.startswith(incomplete)]


def complete_clusters(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """``local``, and the sites of all other schedulers."""
    from cefr_batch.schedulers import SCHEDULERS, site_files

    names = dict.fromkeys([*SCHEDULERS, *site_files()])
    return [name for name in names if name.startswith(incomplete)]


def complete_runs(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The runs of the store that the command line names so far, or of the usual one; none if it does not answer soon."""
    from cefr_batch.runner import Session
    from cefr_batch.schedulers.background import within
    from cefr_batch.store import DEFAULT_STORE

    given = context.params.get("session")
    try:
        session = given if isinstance(given, Session) else Session(_usual_store(context) or DEFAULT_STORE)
        names = within(_SECONDS, "the store", session.runs)
    except CefrBatchError:
        return []
    return [name for name in names if name.startswith(incomplete)]


def _usual_store(context: click.Context) -> str | None:
    found = (one.value_from_envvar(context) for one in context.command.params if one.name == "session")
    return next((str(value) for value in found if value), None)
