"""All benchmarks, or the rows named: ``make bench``, ``make bench ROW=merge``. Keeps the newest figures of each row in
docs/benchmarks.json, and writes docs/benchmarks.md from them."""

from __future__ import annotations

import sys
import time
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import ROWS
from benchmarks.table import keep, show


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        print(f"no row {unknown[0]}; valid: {', '.join(ROWS)}", file=sys.stderr)
        return 2
    for name in names or ROWS:
        started = time.monotonic()
        with TemporaryDirectory(prefix="cefr-batch-bench-") as folder:
            comparisons = import_module(ROWS[name]).compare(None, Path(folder))
        for one in comparisons:
            print(show(one), flush=True)
        keep(name, comparisons, time.monotonic() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
