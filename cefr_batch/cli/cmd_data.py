"""``cefr-batch data``: check, measure and build training data."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cefr_batch.cli.notice import notice_if_slow
from cefr_batch.cli.options import echo_json, json_option, layout_options
from cefr_batch.cli.show import show, table
from cefr_batch.errors import CefrBatchError, UsageError
from cefr_batch.runner.selection import parse_levels

if TYPE_CHECKING:
    from cefr_batch.data import Example
    from cefr_batch.data.checks import FileCheck
    from cefr_batch.data.special_tokens import SpecialTokens
    from cefr_batch.data.stats import CountTokens, Stats
    from cefr_batch.errors import Problem
    from cefr_batch.records.stages import Leakage

_WARNINGS = 20  # shown for a file

_file = click.Path(path_type=Path)


@click.group("data", short_help="Check, measure and build training data.")
def command() -> None:
    """Check, measure and build training data.

    Data has one of two forms: examples in list format (a JSON list of objects with instruction, input and output), or
    sentence pairs (word and sentence, as .csv, .tsv, .xlsx, .jsonl or .json), from which examples are built.
    """


@command.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=_file)
@click.option(
    "--eval",
    "evaluation",
    metavar="FILE",
    type=_file,
    help="Evaluation data: also look for its sentences in the other files.",
)
@click.option("--model", metavar="NAME", help="Also look for control tokens of this model (as model.name in a job).")
@click.option(
    "--level",
    metavar="LEVEL",
    callback=lambda _ctx, _param, value: parse_levels([value]) if value else [],
    help="Also look for words above this level, and sentences whose estimated level is far from it or that are not English.",
)
@layout_options
def check(
    files: Sequence[Path],
    evaluation: Path | None,
    model: str | None,
    level: Sequence[str],
    columns: str | None,
    sheet: str | None,
) -> None:
    """Name each bad example: its file, its index (from 0; in tables, its row) and the reason.

    Exits with 1 if there are any. Warnings, such as a word that its sentence seems to lack, do not count.
    """
    from cefr_batch.data.checks import check_file, shared_sentences
    from cefr_batch.data.io import TableLayout

    tokens, layout = _special_tokens(model) if model else None, TableLayout.parse(columns, sheet)
    checks = [(path, check_file(path, tokens, layout)) for path in [*files, *([evaluation] if evaluation else [])]]
    for one in level:
        _warn_of_levels([result for _, result in checks], one)
    for path, result in checks:
        click.echo("\n".join(_check_lines(path, result)))
    if evaluation:
        *training, held_out = (result for _, result in checks)
        for warning in shared_sentences(held_out, training):
            click.echo(f"  warning: {warning}")
    if any(result.diagnostics.errors for _, result in checks):
        click.get_current_context().exit(1)


def _warn_of_levels(checks: Sequence[FileCheck], level: str) -> None:
    from cefr_batch.config.schema import Level

    try:
        from cefr_batch.evaluation.data_levels import warn_of_levels
    except ImportError as exc:
        raise _needs_training_packages(exc) from exc
    for result in checks:
        warn_of_levels(result.file, result.pairs, Level(level))


def _needs_training_packages(exc: ImportError) -> UsageError:
    return UsageError(f"--level needs {exc.name}, which is not installed; pip install 'cefr-batch[train]'")


def _special_tokens(model: str) -> SpecialTokens:
    from cefr_batch.data.special_tokens import SpecialTokens

    return SpecialTokens.read(_tokenizer(model).parent)


def _tokenizer(model: str) -> Path:
    from cefr_batch.config.schema import ModelSpec
    from cefr_batch.models.resolve import tokenizer_file

    with notice_if_slow():
        return tokenizer_file(ModelSpec(name=model, revision=None, alias=None, load_in_4bit=False))


def _check_lines(path: Path, result: FileCheck) -> Iterable[str]:
    errors, warnings = result.diagnostics.errors, result.diagnostics.warnings
    yield f"{path}: {result.good:,} {result.kind}, {_count(errors, 'error')}, {_count(warnings, 'warning')}"
    yield from (f"  error: {_beside(path, problem)}" for problem in errors)
    yield from (f"  warning: {_beside(path, problem)}" for problem in warnings[:_WARNINGS])
    if len(warnings) > _WARNINGS:
        yield f"  and {len(warnings) - _WARNINGS:,} more warnings"


def _count(items: Sequence[object], what: str) -> str:
    return f"{len(items):,} {what}{'' if len(items) == 1 else 's'}"


def _beside(path: Path, problem: Problem) -> str:
    return str(problem).removeprefix(f"{path}: ")


@command.command(short_help="Count examples, words and sentences, measure the longest example.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=_file)
@click.option("--eval", "evaluation", metavar="FILE", type=_file, help="Evaluation data: also show the leakage.")
@click.option("--model", metavar="NAME", help="Count tokens with the tokenizer of this model (as model.name in a job).")
@click.option("--level", "estimate", is_flag=True, help="Estimate the sentences' CEFR level: 1 is A1 … 6 is C2.")
@layout_options
@json_option
def stats(
    files: Sequence[Path],
    evaluation: Path | None,
    model: str | None,
    estimate: bool,
    columns: str | None,
    sheet: str | None,
    as_json: bool,
) -> None:
    """Count the examples, unique words and sentences of files, and measure the longest example.

    Sentence pairs count once each, and only their words and sentences are counted: examples are built from them later.

    The estimated level is the mean over all sentences. It pulls towards the middle: compare it with that of sentences
    whose level is known (docs/level-estimator.md).
    """
    from cefr_batch.data import leakage
    from cefr_batch.data.checks import read_either
    from cefr_batch.data.io import TableLayout
    from cefr_batch.data.stats import stats_of, stats_of_pairs

    layout = TableLayout.parse(columns, sheet)
    paths = [*files, evaluation] if evaluation else list(files)
    read = {path: read_either(path, layout) for path in paths}
    sides = {path: examples for path, (examples, _) in read.items()}
    count = _counter(model) if model else None
    rows = {
        click.format_filename(path): stats_of_pairs(examples) if are_pairs else stats_of(examples, count)
        for path, (examples, are_pairs) in read.items()
    }
    leak = leakage([e for path in files for e in sides[path]], sides[evaluation]) if evaluation else None
    levels = [_mean_level(examples) for examples in sides.values()] if estimate else None
    if as_json:
        named = [{"file": name, **asdict(row)} for name, row in rows.items()]
        for file, level in zip(named, levels or (), strict=False):
            file["estimated_level"] = level
        echo_json({"files": named, "leakage": leak.model_dump() if leak else None})
    else:
        _show(rows, leak, levels)


def _mean_level(examples: Sequence[Example]) -> float | None:
    """The mean estimated level of the examples' sentences; None without a word."""
    from cefr_batch.data.examples import sentences_in

    try:
        from cefr_batch.evaluation.level_estimator import level_estimator
    except ImportError as exc:
        raise _needs_training_packages(exc) from exc
    import numpy as np

    estimates = level_estimator().estimate([sentence for example in examples for sentence in sentences_in(example)])
    known = estimates[~np.isnan(estimates)]
    return round(float(known.mean()), 2) if len(known) else None


def _counter(model: str) -> CountTokens:
    from cefr_batch.data import TokenCounter

    return TokenCounter(_tokenizer(model))


def _show(rows: dict[str, Stats], leak: Leakage | None, levels: Sequence[float | None] | None = None) -> None:
    headings = ["FILE", "EXAMPLES", "UNIQUE WORDS", "SENTENCES", "UNIQUE SENTENCES", "LONGEST EXAMPLE"]
    cells = [[name, *_cells(row)] for name, row in rows.items()]
    if levels is not None:
        headings.append("LEVEL")
        cells = [[*row, "" if level is None else f"{level:.2f}"] for row, level in zip(cells, levels, strict=True)]
    known = [n for n, column in enumerate(zip(*cells, strict=True)) if any(column)]  # not all are counted in pairs
    show(table([[row[n] for n in known] for row in cells], [headings[n] for n in known]))
    if leak:
        click.echo(
            f"Leakage: {leak.sentences_percent:.1f} % of the evaluation sentences occur word for word in the training "
            f"data, {leak.near_sentences_percent or 0:.1f} % word for word or nearly so, and {leak.words_percent:.1f} % of "
            "the evaluation words occur in it"
        )


def _cells(row: Stats) -> list[str]:
    longest = "" if row.longest_example_tokens is None else f"{row.longest_example_tokens:,} tokens"
    numbers = (row.unique_words, row.sentences, row.unique_sentences)
    return ["" if row.examples is None else f"{row.examples:,}", *(f"{number:,}" for number in numbers), longest]


@command.command(short_help="Take examples apart, to build and split them anew.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=_file)
@click.option("--out", metavar="FILE.json", required=True, type=_file, help="Where the pairs go.")
@click.option("--force", is_flag=True, help="Overwrite the file if it is there.")
def pairs(files: Sequence[Path], out: Path, force: bool) -> None:
    """Write the sentence pairs of examples in list format, each once: the form that `data build` takes.

    In this way ready-made examples can be split anew, so that no evaluation sentence, or no evaluation word, is trained on.
    """
    from cefr_batch.data.examples import pairs_in, read_examples
    from cefr_batch.data.pairs import distinct
    from cefr_batch.files import write_json

    if out.suffix.lower() != ".json":
        raise UsageError(f"--out: {out} must end in .json, since that is how the pairs are written")
    _refuse_existing([out], force)
    found = distinct(pair for path in files for example in read_examples(path) for pair in pairs_in(example))
    if not found:
        raise UsageError("no example lists numbered words, so there are no pairs of word and sentence")
    with _writing(out):
        write_json(out, [pair._asdict() for pair in found])
    click.echo(f"{out}: {len(found):,} sentence pairs; build examples with `cefr-batch data build {out} --level …`")


def _refuse_existing(targets: Iterable[Path], force: bool) -> None:
    there = [str(path) for path in targets if os.path.exists(path)]
    if there and not force:
        raise UsageError(f"already there: {' and '.join(there)}; choose another --out, or overwrite with --force")


@command.command()
@click.argument("source", metavar="SOURCE")
@click.option("--level", metavar="LEVEL", required=True, help="A1, A2, B1, B2 or C1.")
@click.option("--out", metavar="DIR", required=True, type=_file, help="Where train.json and eval.json go.")
@click.option("--examples", type=int, help="How many examples, in both files together.")
@click.option("--eval-fraction", type=float, help="The share of the examples that are for evaluation.")
@click.option("--words-per-example", type=int, help="How many words, and so sentences, each example has.")
@click.option(
    "--split-by", metavar="UNIT", help="What both files must not share: sentence, similar_sentence, word or example."
)
@click.option("--seed", type=int, help="Random seed by which examples are drawn and split.")
@layout_options
@click.option("--force", is_flag=True, help="Overwrite the files if they are there.")
def build(
    source: str,
    level: str,
    out: Path,
    columns: str | None,
    sheet: str | None,
    force: bool,
    **settings: int | float | str | None,
) -> None:
    """Build examples in list format from sentence pairs.

    SOURCE is a .csv, .tsv, .xlsx, .jsonl or .json file, or starter (starter-v1: as in version 0.1.0). What is not given is
    taken from the level's job file: --columns and --sheet only if it names the same SOURCE.
    """
    from cefr_batch.config.load import load_spec
    from cefr_batch.data import load_dataset
    from cefr_batch.data.dataset import layout_of
    from cefr_batch.data.io import TableLayout
    from cefr_batch.data.stats import contents_of
    from cefr_batch.files import aside
    from cefr_batch.records import layout

    targets = [out / layout.TRAIN_FILE, out / layout.EVAL_FILE]
    _refuse_existing(targets, force)
    table_layout = TableLayout.parse(columns, sheet)
    if not (columns or sheet):
        own = load_spec(level).data
        if own.source and Path(own.source).resolve() == Path(source).resolve():
            table_layout = layout_of(own)
    given = {**settings, "columns": dict(table_layout.columns) or None, "sheet": table_layout.sheet}
    chosen = {"source": source, **{name: value for name, value in given.items() if value is not None}}
    spec = load_spec(level, overrides=[f"data.{name}={json.dumps(value)}" for name, value in chosen.items()])
    data = load_dataset(spec.data, spec.level, table_layout)
    with _writing(out), aside(targets[0]) as train, aside(targets[1]) as evaluation:
        train.write(data.train_bytes.decode())
        evaluation.write(data.eval_bytes.decode())
    sides = [contents_of(side) for side in (data.train, data.eval)]
    rows = {str(path): contents.stats() for path, contents in zip(targets, sides, strict=True)}
    _show(rows, sides[1].leakage_from(sides[0]))
    click.echo(f"Use them with --set data.train={targets[0]} --set data.eval={targets[1]}")


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise CefrBatchError(f"cannot write {exc.filename or place}: {exc.strerror or exc}") from exc
