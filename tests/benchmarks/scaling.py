"""How cost grows with size: the slope of a line through time and size on log axes; 1 is linear."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support.stored_runs import add_complete

from benchmarks import building, models, transfers
from benchmarks.measure import OURS, Comparison, median, process
from cefr_batch.store import open_store

CLI = [sys.executable, "-m", "cefr_batch"]
LEVELS = ("A1", "A2", "B1", "B2", "C1")


def compare(tiny: Path | None, folder: Path) -> list[Comparison]:
    source = building.pairs(folder / "pairs.csv")
    rounds = 1 if tiny else 3

    def examples(size: int) -> float:
        return building.ours(source, size, folder).seconds

    def levels(size: int) -> float:
        chosen = [word for level in LEVELS[:size] for word in ("--level", level)]
        model: list[str | Path] = ["--set", f"model.name={tiny or models.smollm2()}", "--set", "backend=peft"]
        place: list[str | Path] = ["--store", folder / "none", "--cluster", "local"]
        return process([*CLI, "submit", *chosen, *model, *place, "--dry-run"]).seconds

    found = [
        _slope("examples built and checked", examples, (100, 200) if tiny else (2_000, 6_000, 20_000), rounds),
        _slope("levels in one submit --dry-run", levels, (1, 2) if tiny else (1, 3, 5), rounds),
    ]
    if tiny:
        return [*found, _runs(f"file://{folder}/runs", (2, 4), rounds)]
    with transfers.server(folder) as server:
        listing = folder / "listing.json"
        tool = transfers.tools(server, listing, folder)[OURS]

        def artifact(size: int) -> float:
            target = transfers.files_of([size], folder / f"artifact-{size}")
            return process(tool("up", f"artifact-{size}", target)).seconds

        sizes = (50_000_000, 200_000_000, 800_000_000)
        found.append(_slope("bytes of a stored artifact", artifact, sizes, rounds))
        return [*found, _runs(server.url("runs"), (100, 300, 1000), rounds)]


def _runs(url: str, sizes: Sequence[int], rounds: int) -> Comparison:
    def runs(size: int) -> float:
        return process([*CLI, "status", "--store", f"{url}".replace("runs", f"runs-{size}")]).seconds

    for size in sizes:
        store = open_store(url.replace("runs", f"runs-{size}"))
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda n, store=store: add_complete(store, f"tiny-b1-peft-v{n + 1}", {}), range(size)))
    return _slope("runs listed by status", runs, sizes, rounds)


def _slope(what: str, cost: Callable[[int], float], sizes: Sequence[int], rounds: int) -> Comparison:
    seconds: Mapping[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            seconds[size].append(cost(size))
    points = [(math.log(size), math.log(median(seconds[size]))) for size in sizes]
    slope = _fitted(points)
    return Comparison(
        "scaling", what, {f"{size:,}": several for size, several in seconds.items()}, "slope ≤ 1.1",
        f"slope {slope:.2f}", slope <= 1.1,
    )  # fmt: skip


def _fitted(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the least-squares line."""
    middle: list[float] = [sum(values) / len(points) for values in zip(*points, strict=True)]
    above: float = sum((x - middle[0]) * (y - middle[1]) for x, y in points)
    across: float = sum((x - middle[0]) ** 2 for x, _ in points)
    return above / across
