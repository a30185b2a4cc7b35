"""What the command line costs beside what it does: its start, submitting, the status of many runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clusters import slurm
from support.stored_runs import add_complete

from benchmarks import models, transfers
from benchmarks.measure import OURS, ROOT, Comparison, Took, in_turns, median, process, ratio, seconds_of
from cefr_batch.store import open_store

CLI = [sys.executable, "-m", "cefr_batch"]


def compare(tiny: Path | None, folder: Path) -> list[Comparison]:
    rounds = 1 if tiny else 15
    found = [_help(rounds), _dry_run(rounds, tiny or models.smollm2(), folder)]
    if tiny:
        return [*found, _status(f"file://{folder}/few", 5, 1)]
    with transfers.server(folder) as server:
        found.append(_status(server.url("many"), 1000, 5))
    if why := slurm.why_not():
        print(f"not measured: submit to Slurm: {why}", file=sys.stderr)
        return found
    with slurm.cluster(), _shared_folder() as shared:
        return [*found, _slurm(7, models.smollm2(), shared)]


def _ways(ways: Mapping[str, list[str | Path]]) -> Mapping[str, Callable[[], Took]]:
    return {name: (lambda command=command: process(command)) for name, command in ways.items()}  # type: ignore[misc]


def _help(rounds: int) -> Comparison:
    click = "python -c 'import click'"
    ways = _ways({OURS: [*CLI, "--help"], click: [sys.executable, "-c", "import click"]})
    seconds = seconds_of(in_turns(rounds, ways))
    times = 1 / ratio(seconds, click)
    return Comparison(
        "cli", "--help", seconds, "≤ 2.5 × the time of `import click`", f"{times:.2f} × that time", times <= 2.5
    )


def _submit(model: Path, store: Path, *more: str) -> list[str | Path]:
    settings = ("--set", f"model.name={model}", "--set", "training.max_length=1024")  # a small vocabulary, long texts
    return [*CLI, "submit", "--level", "B1", *settings, "--store", store, *more]


def _dry_run(rounds: int, model: Path, folder: Path) -> Comparison:
    ways = _ways({OURS: _submit(model, folder / "dry", "--cluster", "local", "--dry-run", "--set", "backend=peft")})
    seconds = seconds_of(in_turns(rounds, ways))
    got = f"{median(seconds[OURS]):.2f} s"
    return Comparison("cli", "submit --dry-run, 2,000 examples built and counted", seconds, "none", got, True)


def _status(url: str, runs: int, rounds: int) -> Comparison:
    store = open_store(url)
    levels = ("a1", "a2", "b1", "b2", "c1")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: add_complete(store, f"tiny-{levels[n % 5]}-peft-v{n // 5 + 1}", {}), range(runs)))
    seconds = seconds_of(in_turns(rounds, _ways({OURS: [*CLI, "status", "--store", url]})))
    got = median(seconds[OURS])
    kind = "SeaweedFS" if url.startswith("s3") else "a folder"
    return Comparison("cli", f"status of {runs:,} runs in {kind}", seconds, "≤ 3 s", f"{got:.2f} s", got <= 3)


def _slurm(rounds: int, model: Path, shared: Path) -> Comparison:
    script = shared / "job.sh"
    script.write_text("#!/bin/sh\nexit 0\n")
    sites = shared / "sites"
    sites.mkdir()
    (sites / "default.yaml").write_bytes((ROOT / "slurm" / "default.yaml").read_bytes())
    site = {
        "extends": "default", "cpus": 1, "memory": "1G", "backend": "peft", "shared": str(shared), "options": ["--hold"],
    }  # fmt: skip
    (sites / "bench.yaml").write_text(json.dumps(site))
    ours = _submit(model, shared / "store", "--cluster", "slurm/bench")
    sbatch: list[str | Path] = ["sbatch", "--hold", script]
    ways = {
        OURS: lambda: process(ours, env={"CEFR_BATCH_SLURM": str(sites)}),
        "sbatch": lambda: process(sbatch),
    }
    try:
        seconds = seconds_of(in_turns(rounds, ways))
    finally:
        subprocess.run(["scancel", "--user", str(os.getuid())], check=True)
    more = median(seconds[OURS]) - median(seconds["sbatch"])
    return Comparison(
        "cli", "submit to Slurm", seconds, "≤ sbatch + 0.6 s", f"sbatch + {more:.2f} s", more <= 0.6,
        ("includes what sbatch does not do: 2,000 examples built, tokens counted, the cluster checked, data stored",),
    )  # fmt: skip


@contextlib.contextmanager
def _shared_folder() -> Iterator[Path]:
    """A folder that both of the test cluster's nodes see, as they run on this machine."""
    folder = Path.home() / f"cefr-batch-bench-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
