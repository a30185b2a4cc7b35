"""The figures as text: tables in Markdown, for docs/gpu-memory.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cefr_batch.bench.figures import CaseFigures
from cefr_batch.bench.measure import BenchReport, CaseResult

_HEADINGS = ("case", "batch", "a step", "tokens/s", "of products' rate", "peak GB / planned", "result")


def markdown(report: BenchReport) -> str:
    """What was measured, then where the time went. Ends with a line break."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    kind = "bf16" if machine.bf16 else "fp32"
    memory = f"{machine.memory / 1e9:.1f} GB, " if machine.gpus else ""
    lines = [
        f"{machine.name}: {memory}{machine.flops / 1e12:,.1f} TFLOP/s in products of matrices ({kind}). "
        f"Measured {report.measured_at[:10]} in {report.seconds:.0f} s, with {versions}.",
        "",
        *_table([_HEADINGS, *(_row(case) for case in report.cases)]),
        "",
        "| case | where the time goes |",
        "| --- | --- |",
        *(f"| {case.name} | {text} |" for case in report.cases if case.figures for text in _times(case, case.figures)),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield f"| {' | '.join(row)} |"
        if number == 0:
            yield f"|{' --- |' * len(row)}"


def _row(case: CaseResult) -> tuple[str, ...]:
    found, result = case.figures, said(case).replace("|", "\\|").replace("\n", " ")
    if found is None:
        return (case.name, *[""] * (len(_HEADINGS) - 2), result)
    return (
        case.name,
        found.batch,
        f"{found.step_seconds:.3f} s",
        f"{found.tokens_per_second:,.0f}",
        f"{100 * found.share:.0f} %",
        "" if found.peak_memory_gb is None else f"{found.peak_memory_gb:.1f} / {found.planned_memory_gb:.1f}",
        result,
    )


def said(case: CaseResult) -> str:
    """How a case ended, in words."""
    found = case.figures
    if found is None:
        return case.problem
    parts = [case.problem or "done"]
    if found.out_of_memory:
        parts.append(f"ran out of memory with {', '.join(map(str, found.out_of_memory))} examples at once, and went on")
    if found.comparison:
        same = "the same weights, to the bit, as" if found.comparison.same_adapter else "other weights than"
        parts.append(f"{same} {found.comparison.other}; losses at most {found.comparison.difference:.2g} apart")
    if found.repeated_steps:
        parts.append(f"repeated {found.repeated_steps} steps")
    return "; ".join(parts)


def _times(case: CaseResult, found: CaseFigures) -> Iterator[str]:
    if found.stage_seconds:
        stages = {name: seconds for name, seconds in found.stage_seconds.items() if seconds >= 0.1}
        rest = case.seconds - sum(found.stage_seconds.values())
        yield ", ".join(f"{name} {seconds:.1f} s" for name, seconds in {**stages, "starting and storing": rest}.items())
    if profile := found.profile:
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in profile.kinds.items())
        yield f"of a step {100 * profile.busy:.0f} % computing: {shares}"
