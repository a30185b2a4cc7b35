"""cefr-batch beside what a user would run instead; ``make bench`` measures, docs/benchmarks.md shows."""

# Row -> module whose ``compare(tiny, folder)`` measures it; with a tiny model, at a size that only shows that it runs.
ROWS = {
    "training": "benchmarks.training",
    "job": "benchmarks.job",
    "evaluation": "benchmarks.evaluation",
    "merge": "benchmarks.merging",
    "transfers": "benchmarks.transfers",
    "cli": "benchmarks.cli",
    "generation": "benchmarks.generation",
    "data": "benchmarks.building",
    "scaling": "benchmarks.scaling",
}
