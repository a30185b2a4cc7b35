"""``cefr-batch data``: check, measure and build training data."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cefr_batch.cli.notice import notice_if_slow
from cefr_batch.cli.options import echo_json, json_option
from cefr_batch.cli.show import columns
from cefr_batch.errors import CefrBatchError, UsageError

if TYPE_CHECKING:
    from cefr_batch.data import Leakage
    from cefr_batch.data.checks import FileCheck
    from cefr_batch.data.stats import Contents, CountTokens, Stats
    from cefr_batch.errors import Problem
    from cefr_batch.levels import RunSpec

_WARNINGS = 20  # shown for a file

_file = click.Path(path_type=Path)


@click.group("data", short_help="Check, measure and build training data.")
def command() -> None:
    """Check, measure and build training data.

    Two forms: examples in list format (a JSON list of objects with instruction, input and output), and sentence pairs
    (word and sentence, as .csv, .jsonl or .json), from which examples are built.
    """


@command.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=_file)
def check(files: Sequence[Path]) -> None:
    """Name each bad example by file, index (from 0) and reason.

    Exits with 1 if there is any. Warnings alone, such as a word that its sentence seems to lack, are no reason.
    """
    from cefr_batch.data.checks import check_file

    checks = [(path, check_file(path)) for path in files]
    for path, result in checks:
        click.echo("\n".join(_check_lines(path, result)))
    if any(result.findings.errors for _, result in checks):
        click.get_current_context().exit(1)


def _check_lines(path: Path, result: FileCheck) -> Iterable[str]:
    errors, warnings = result.findings.errors, result.findings.warnings
    yield f"{path}: {result.good:,} {result.kind}, {_count(errors, 'error')}, {_count(warnings, 'warning')}"
    yield from (f"  error: {_beside(path, problem)}" for problem in errors)
    yield from (f"  warning: {_beside(path, problem)}" for problem in warnings[:_WARNINGS])
    if len(warnings) > _WARNINGS:
        yield f"  and {len(warnings) - _WARNINGS:,} more warnings"


def _count(items: Sequence[object], what: str) -> str:
    return f"{len(items):,} {what}{'' if len(items) == 1 else 's'}"


def _beside(path: Path, problem: Problem) -> str:
    return str(problem).removeprefix(f"{path}: ")


@command.command(short_help="Examples, unique words, longest example.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=_file)
@click.option("--eval", "evaluation", metavar="FILE", type=_file, help="Evaluation examples: also shows the leakage.")
@click.option("--model", metavar="NAME", help="Count tokens with the tokenizer of this model (as model.name in a job).")
@json_option
def stats(files: Sequence[Path], evaluation: Path | None, model: str | None, as_json: bool) -> None:
    """Examples, unique words and the longest example of files in list format."""
    from cefr_batch.data import leakage
    from cefr_batch.data.examples import read_examples
    from cefr_batch.data.stats import stats_of

    paths = [*files, evaluation] if evaluation else list(files)
    sides = {str(path): read_examples(path) for path in paths}
    count = _counter(model) if model else None
    rows = {name: stats_of(examples, count) for name, examples in sides.items()}
    leak = leakage([e for path in files for e in sides[str(path)]], sides[str(evaluation)]) if evaluation else None
    if as_json:
        named = [{"file": name, **asdict(row)} for name, row in rows.items()]
        echo_json({"files": named, "leakage": asdict(leak) if leak else None})
    else:
        _show(rows, leak)


def _counter(model: str) -> CountTokens:
    from cefr_batch.data import TokenCounter
    from cefr_batch.levels import ModelSpec
    from cefr_batch.pretrained import tokenizer_file

    with notice_if_slow():
        return TokenCounter(tokenizer_file(ModelSpec(name=model, revision=None, alias=None, load_in_4bit=False)))


def _show(rows: dict[str, Stats], leak: Leakage | None) -> None:
    headings = ["FILE", "EXAMPLES", "UNIQUE WORDS", "SENTENCES", "UNIQUE SENTENCES", "LONGEST EXAMPLE"]
    lines = columns([headings, *([name, *_cells(row)] for name, row in rows.items())])
    if leak:
        lines.append(
            f"Leakage: {leak.sentences_percent:.1f} % of the evaluation sentences stand word for word in the training "
            f"data, and {leak.words_percent:.1f} % of the evaluation words are there"
        )
    click.echo("\n".join(lines))


def _cells(row: Stats) -> list[str]:
    longest = "" if row.longest_example_tokens is None else f"{row.longest_example_tokens:,} tokens"
    numbers = (row.examples, row.unique_words, row.sentences, row.unique_sentences)
    return [*(f"{number:,}" for number in numbers), longest]


@command.command(short_help="Take examples apart, to build and split them anew.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=_file)
@click.option("--out", metavar="FILE.json", required=True, type=_file, help="Where the pairs go.")
@click.option("--force", is_flag=True, help="Overwrite the file if it is there.")
def pairs(files: Sequence[Path], out: Path, force: bool) -> None:
    """Write the sentence pairs of examples in list format, each once: what `data build` takes.

    So can ready files be split anew, such that no evaluation sentence, or no evaluation word, is trained on.
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
@click.option("--examples", type=int, help="Of both files together.")
@click.option("--eval-fraction", type=float, help="The share of the examples that are for evaluation.")
@click.option("--words-per-example", type=int)
@click.option("--split-by", metavar="UNIT", help="sentence, word or example: what is not on both sides.")
@click.option("--seed", type=int)
@click.option("--force", is_flag=True, help="Overwrite the files if they are there.")
def build(source: str, level: str, out: Path, force: bool, **settings: int | float | str | None) -> None:
    """Build examples in list format from sentence pairs.

    SOURCE is a .csv, .jsonl or .json file, or starter. What is not given is taken from the level's job file.
    """
    from cefr_batch import layout
    from cefr_batch.data.stats import Contents
    from cefr_batch.spec import load_spec

    targets = {"train": out / layout.TRAIN_FILE, "eval": out / layout.EVAL_FILE}
    _refuse_existing(targets.values(), force)
    chosen = {"source": source, **{name: value for name, value in settings.items() if value is not None}}
    spec = load_spec(level, overrides=[f"data.{name}={json.dumps(value)}" for name, value in chosen.items()])
    contents = {side: Contents() for side in targets}
    with _writing(out):
        _build(spec, targets, contents)
    leak = contents["eval"].leakage_from(contents["train"])
    _show({str(path): contents[side].stats() for side, path in targets.items()}, leak)
    click.echo(f"Use them with --set data.train={targets['train']} --set data.eval={targets['eval']}")


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise CefrBatchError(f"cannot write {exc.filename or place}: {exc.strerror or exc}") from exc


def _build(spec: RunSpec, targets: Mapping[str, Path], contents: Mapping[str, Contents]) -> None:
    """Write each side as its examples are made; both files appear when both are whole."""
    from cefr_batch.data.build import Writer, deal
    from cefr_batch.data.pairs import read_pairs
    from cefr_batch.files import aside

    pairs = read_pairs(str(spec.data.source), spec.level)
    writer = Writer(pairs, spec.data.words_per_example, spec.level)
    with ExitStack() as stack:
        for side, hands in deal(pairs, spec.data):
            file = stack.enter_context(aside(targets[side]))
            file.writelines(writer.parts(contents[side].dealt(hands, pairs)))
