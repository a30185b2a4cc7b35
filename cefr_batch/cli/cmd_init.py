"""``cefr-batch init``: a working folder to start from."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cefr_batch.cli.notice import notice_if_slow
from cefr_batch.cli.options import layout_options, levels_option
from cefr_batch.cli.printable import printable

if TYPE_CHECKING:
    from cefr_batch.runner.first_files import FirstFiles

_file = click.Path(path_type=Path)


@click.command(short_help="Write the first files: a job file, data, a site file.")
@click.argument("folder", metavar="[FOLDER]", default=".", type=_file)
@levels_option(show_default="B1; none with --slurm or --k8s alone")
@click.option(
    "--data",
    metavar="FILE",
    multiple=True,
    type=_file,
    help="Your sentence pairs of one level; or, given twice, your training and evaluation examples. Default: a sample.",
)
@layout_options
@click.option("--slurm", is_flag=True, help="Write a site file for SLURM, from what sinfo and sacctmgr show.")
@click.option(
    "--k8s", is_flag=True, help="Write a site file for Kubernetes, from what the kubeconfig and the nodes show."
)
@click.option(
    "--host",
    metavar="HOST",
    help="With --slurm: ask this login node over ssh, as in me@login.cluster.edu, and submit from this machine.",
)
@click.option("--site", metavar="NAME", default="mysite", show_default=True, help="The name of the site file.")
def command(
    folder: Path,
    levels: Sequence[str],
    data: Sequence[Path],
    columns: str | None,
    sheet: str | None,
    slurm: bool,
    k8s: bool,
    host: str | None,
    site: str,
) -> None:
    """Write the first files of a working folder, with comments: jobs/, data/, slurm/ or k8s/.

    FOLDER is the current folder unless you name another. With --slurm or --k8s alone, only a site file is written: levels
    are then trained on the starter corpus. Overwrites nothing, and starts nothing.
    """
    from cefr_batch.data.io import TableLayout
    from cefr_batch.runner.first_files import write_first_files

    layout = TableLayout.parse(columns, sheet)
    kinds = [kind for kind, wanted in (("slurm", slurm), ("k8s", k8s)) if wanted]
    levels = levels or (() if kinds and not data else ("B1",))
    with notice_if_slow():
        first = write_first_files(folder, levels, data=data, layout=layout, kinds=kinds, site=site, host=host)
    for path in first.files:
        click.echo(f"wrote {printable(str(path))}")
    for line in first.unknown:
        click.echo(f"not filled in: {printable(line)}", err=True)
    click.echo("\n".join(["\nNext:", *(f"  {shlex.join(words)}" for words in _next(folder, levels, first, host))]))


def _next(folder: Path, levels: Sequence[str], first: FirstFiles, host: str | None) -> list[tuple[str, ...]]:
    level = ",".join(levels) or "B1"
    run = ("cefr-batch", "submit", "--level", level)
    words: list[tuple[str, ...]] = [("cd", str(folder))] if folder.resolve() != Path.cwd() else []
    few = ("--set", f"data.examples={first.examples}") if first.examples else ()  # the profile asks for more
    if levels and not first.clusters:
        smoke = ("--level", level, "--profile", "smoke", *few)
        words += [("cefr-batch", "plan", *smoke), ("cefr-batch", "submit", *smoke, "--wait")]
    for cluster in first.clusters:
        remote = host or cluster.startswith("k8s/")
        store = ("--store", "s3://BUCKET/PREFIX") if remote and not os.environ.get("CEFR_BATCH_STORE") else ()
        words += [
            ("cefr-batch", "doctor", "--cluster", cluster, *store),
            (*run, "--cluster", cluster, *store, "--dry-run"),
        ]
    return words
