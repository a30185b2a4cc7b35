"""``cefr-batch config``: which files and settings are found, and where."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from cefr_batch.cli.options import echo_json, json_option, levels_option, settings_options
from cefr_batch.cli.show import short_path, show, size, table
from cefr_batch.config.layers import all_settings_files, settings_folders
from cefr_batch.errors import UsageError
from cefr_batch.schedulers import SITES, site_files

_VARIABLES = tuple(f"CEFR_BATCH_{name}" for name in ("STORE", "JOBS", "SLURM", "K8S", "CACHE", "WORK"))


class _File(NamedTuple):
    name: str
    path: Path
    stands_in_for: tuple[Path, ...]


@click.group("config", short_help="Show which files and settings are used.")
def command() -> None:
    """Show which files and settings are found, and where they come from.

    A file is looked up first in the folder jobs, slurm or k8s of the current folder, then among those that come with
    cefr-batch. If CEFR_BATCH_JOBS, CEFR_BATCH_SLURM or CEFR_BATCH_K8S is set, only that folder is searched.
    """


@command.command("show")
@levels_option()
@settings_options
@json_option
def show_settings(levels: Sequence[str], profile: str | None, overrides: Sequence[str], as_json: bool) -> None:
    """Show all files that are found or, with --level, each setting of a level's run and the file that gives it."""
    if levels:
        _show_levels(levels, profile, overrides, as_json)
    elif profile or overrides:
        raise UsageError("--profile and --set need a --level whose settings they change")
    else:
        found = {"jobs": _files("jobs"), "profiles": _files("jobs", "profiles"), "sites": _sites()}
        _show_files(found, as_json)


@command.command()
@json_option
def sites(as_json: bool) -> None:
    """Show the clusters that --cluster takes, and their site files."""
    _show_files({"sites": _sites()}, as_json)


@command.command()
@json_option
def profiles(as_json: bool) -> None:
    """Show the profiles that --profile takes, and their files."""
    _show_files({"profiles": _files("jobs", "profiles")}, as_json)


@command.command()
@json_option
def gpus(as_json: bool) -> None:
    """Show the GPUs that plan and site files know, and what is known of them."""
    from cefr_batch.planning.gpus import GPUS

    if as_json:
        known = [{"name": g.key, "product": g.name, "memory": g.memory, "bf16": g.bf16} for g in GPUS.values()]
        return echo_json({"gpus": known})
    rows = [(g.key, g.name, size(g.memory), f"{g.tflops:g}", "yes" if g.bf16 else "no") for g in GPUS.values()]
    show(table(rows, ("NAME", "GPU", "MEMORY", "TFLOPS", "BF16")))
    return click.echo(
        "\nAny other memory follows a colon, as in h100:20 for 20 GB of one. They are part of cefr-batch."
    )


def _files(kind: str, subfolder: str = "") -> list[_File]:
    return [_File(name, path, tuple(others)) for name, (path, *others) in all_settings_files(kind, subfolder).items()]


def _sites() -> list[_File]:
    """By the names that ``--cluster`` takes; ``local`` has no file."""
    return [_File(name, path, tuple(others)) for name, (path, *others) in site_files().items()]


def _show_files(found: dict[str, list[_File]], as_json: bool) -> None:
    if as_json:
        listed = {kind: [_as_json(one) for one in files] for kind, files in found.items()}
        return echo_json({**listed, "environment": _environment()})
    rows = [(kind, one.name, short_path(one.path), _others(one)) for kind, files in found.items() for one in files]
    show(table(rows, ("WHAT", "NAME", "FILE", "INSTEAD OF")))
    kinds = [*(["jobs"] if {"jobs", "profiles"} & found.keys() else []), *(SITES if "sites" in found else ())]
    folders = dict.fromkeys(short_path(folder) for kind in kinds for folder in settings_folders(kind))
    click.echo(f"\nSearched in this order, the first file found counts: {', '.join(folders)}")
    for name, value in _environment().items():
        click.echo(f"{name}={value}")
    return None


def _others(one: _File) -> str:
    return "\n".join(map(short_path, one.stands_in_for))


def _as_json(one: _File) -> dict[str, object]:
    return {"name": one.name, "file": str(one.path), "instead_of": [str(path) for path in one.stands_in_for]}


def _environment() -> dict[str, str]:
    """The environment's settings that are set. The address of a store holds no key."""
    return {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}


def _show_levels(levels: Sequence[str], profile: str | None, overrides: Sequence[str], as_json: bool) -> None:
    from cefr_batch.config.load import given_settings
    from cefr_batch.schedulers.draft import as_yaml

    found = {level: given_settings(level, profile=profile, overrides=overrides) for level in levels}
    if as_json:
        named = {
            level: {one.key: {"value": one.value, "from": one.origin} for one in given}
            for level, given in found.items()
        }
        return echo_json({"levels": named})
    for number, (level, given) in enumerate(found.items()):
        click.echo("\n" * bool(number) + f"Level {level}:")
        show(table([(one.key, as_yaml(one.value), _origin(one.origin)) for one in given], ("KEY", "VALUE", "FROM")))
    return None


def _origin(origin: str) -> str:
    return origin if origin.startswith("--") else short_path(Path(origin))
