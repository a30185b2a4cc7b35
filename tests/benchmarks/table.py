"""The figures as text, as docs/benchmarks.json, and as docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import platform
import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

from benchmarks import ROWS
from benchmarks.measure import ROOT, Comparison

JSON, MARKDOWN = ROOT / "docs" / "benchmarks.json", ROOT / "docs" / "benchmarks.md"
NOTES = ROOT / "docs" / "benchmarks-notes.md"
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "boto3")


def show(one: Comparison) -> str:
    entry = one.as_json()
    lines = [f"\n{one.row}: {one.what}"]
    lines += [f"  {name:<24} {_seconds(values)}" for name, values in entry["seconds"].items()]
    lines += [f"  reach: {one.reach}", f"  got:   {one.got} {'(reached)' if one.reached else '(MISSED)'}"]
    return "\n".join(lines + [f"  {note}" for note in one.notes])


def _seconds(values: Mapping[str, float]) -> str:
    rounds = "1 round" if values["rounds"] == 1 else f"{values['rounds']} rounds"
    return f"{_digits(values['median'])} s ({_digits(values['least'])} to {_digits(values['most'])}, {rounds})"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def keep(row: str, comparisons: Sequence[Comparison], took: float) -> None:
    """Put a row's figures in the place of its former ones."""
    kept = json.loads(JSON.read_text(encoding="utf-8")) if JSON.is_file() else {}
    kept[row] = {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "took_seconds": round(took),
        "machine": _machine(),
        "comparisons": [one.as_json() for one in comparisons],
    }
    JSON.write_text(json.dumps({name: kept[name] for name in ROWS if name in kept}, indent=1) + "\n", encoding="utf-8")
    MARKDOWN.write_text(markdown(kept), encoding="utf-8")


def _machine() -> dict[str, Any]:
    from cefr_batch.models.device import this_machine

    return {
        "cpu": this_machine().cpu, "cores": os.cpu_count(), "load": round(os.getloadavg()[1], 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }  # fmt: skip


def markdown(kept: Mapping[str, Any]) -> str:
    """The table, and below it what was noted with the figures; the text around it is in benchmarks-notes.md."""
    before, _, after = NOTES.read_text(encoding="utf-8").partition("<!-- table -->\n")
    lines = [
        "| row and benchmark | time: median (least to most, rounds) | goal | result |",
        "| --- | --- | --- | --- |",
    ]
    notes = []
    for row in (name for name in ROWS if name in kept):
        for one in kept[row]["comparisons"]:
            ways = "<br>".join(f"{name}: {_seconds(values)}" for name, values in one["seconds"].items())
            got = one["got"] if one["reached"] else f"**missed:** {one['got']}"
            lines.append(f"| `{row}` {one['what']} | {ways} | {one['reach']} | {got} |")
            notes += [line for note in one["notes"] for line in _wrapped(f"- *{one['what']}*: {note}", "  ")]
    return before + "\n".join([*lines, "", *_machines(kept), "", *notes, ""]) + after


def _machines(kept: Mapping[str, Any]) -> list[str]:
    newest = max(kept.values(), key=lambda row: str(row["measured_at"]))["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in newest["versions"].items())
    when = ", ".join(f"{name} {kept[name]['measured_at'][:16]} (load {kept[name]['machine']['load']})" for name in kept)
    text = (
        f"On {newest['cores']} cores of {newest['cpu']}, Python {newest['python']}, {versions}. Measured: {when} (UTC)."
    )
    return _wrapped(text)


def _wrapped(text: str, indent: str = "") -> list[str]:
    """Lines as long as the other pages have them."""
    return textwrap.wrap(text, 132, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
