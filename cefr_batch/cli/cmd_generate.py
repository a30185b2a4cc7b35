"""``cefr-batch generate``: sentences from a run's merged model."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cefr_batch.cli.cmd_pull import PULLED
from cefr_batch.cli.notice import notice_if_slow
from cefr_batch.cli.options import echo_json, json_option, runs_options, session_option
from cefr_batch.cli.printable import printable
from cefr_batch.cli.progress import byte_progress
from cefr_batch.data.asked import MOST_WORDS, TOKENS_PER_WORD, asked_words
from cefr_batch.errors import UsageError
from cefr_batch.models.libraries import training_libraries
from cefr_batch.records import layout
from cefr_batch.runner import Artifacts, Session
from cefr_batch.runner.submission import read_spec

if TYPE_CHECKING:
    from cefr_batch.config.schema import RunSpec
    from cefr_batch.evaluation.generation import Sampling
    from cefr_batch.evaluation.text_quality import Answer

_SLOW = "Still working: to load a model and write with it can take minutes without a GPU."
_ZIP = "PK\x03\x04"  # how an .xlsx, .ods or .docx file begins
_MOST_CHARACTERS = 1_000_000  # of standard input: more than so many words have


def _number(_context: click.Context, parameter: click.Parameter, value: float) -> float:
    """Refuse NaN, which click's ranges let through."""
    if math.isnan(value):
        raise UsageError(f"{parameter.opts[0]}: nan is not a number")
    return value


@click.command()
@runs_options
@click.option(
    "--words",
    metavar="WORD,...",
    help="Write sentences with these words. Default: the words on standard input, which may be one per line.",
)
@click.option("--sample", is_flag=True, help="Sample tokens at random instead of always taking the most probable one.")
@click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True, help="Random seed of --sample.")
@click.option(
    "--temperature", type=click.FloatRange(0, 10, min_open=True), callback=_number, default=0.7, show_default=True
)
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), callback=_number, default=0.9, show_default=True)
@click.option("--baseline", is_flag=True, help="Also show what the untrained model writes.")
@json_option
@session_option
def command(
    runs: Sequence[str],
    levels: Sequence[str],
    words: str | None,
    sample: bool,
    seed: int,
    temperature: float,
    top_p: float,
    baseline: bool,
    as_json: bool,
    session: Session,
) -> None:
    """Write a sentence for each word with the model of a complete run.

    The merged model is fetched to this machine's cache, verified, and kept there; a copy that `pull` left in ./pulled
    is used instead. Notes at the end name words that the model did not use, and say whether the answer was cut off.
    """
    chosen = session.find(runs, levels, complete=True)
    if len(chosen) > 1:
        raise UsageError(f"generate uses one run at a time, but got {len(chosen)}: {', '.join(chosen)}")
    asked = _asked(words)
    merged = session.artifacts(chosen[0], ["merged"])
    spec = read_spec(merged.documents, merged.run)
    folder = _fetched(merged)
    _refuse_control_tokens(folder, asked)
    _warn(spec, chosen[0], len(asked))
    with training_libraries(), notice_if_slow(_SLOW):
        from cefr_batch.evaluation.generation import Sampling

        sampling = Sampling(temperature, top_p, seed) if sample else None
        tuned = _written(folder, asked, spec, sampling)
        untuned = None
        if baseline:
            from cefr_batch.models.resolve import resolve_model

            untuned = _written(resolve_model(spec.model), asked, spec, sampling)
    if as_json:
        told = {"text": tuned.text, **({"baseline": untuned.text} if untuned else {})}
        quality = {"cut": tuned.cut, "well_formed": tuned.is_well_formed(), "unused": tuned.unused()}
        return echo_json({"run": chosen[0], "level": spec.level.value, "words": asked, **told, **quality})
    if untuned:
        names = (f"{chosen[0]}:\n\n", f"\n\n{printable(spec.model.name)}, untuned:\n\n")
        click.echo(f"{names[0]}{printable(tuned.text)}{names[1]}{printable(untuned.text)}")
    else:
        click.echo(printable(tuned.text))
    for doubt in _doubts(tuned):
        click.echo(f"note: {doubt}", err=True)
    return None


def _asked(words: str | None) -> list[str]:
    from cefr_batch.data.io import unusable_character

    if words is None and sys.stdin.isatty():
        raise UsageError("no words were given: use --words 'travel, decide', or write one per line to standard input")
    if words is not None and Path(words.strip()).suffix and os.path.isfile(words.strip()):
        raise UsageError(
            f"--words takes words, and {words.strip()} is a file; give a text file, one word per line: < FILE"
        )
    text = sys.stdin.read(_MOST_CHARACTERS) if words is None else words
    if text.startswith(_ZIP):
        raise UsageError(
            "standard input is a spreadsheet (or another zip file); copy its words into a text file, one per line"
        )
    asked = asked_words(text)
    if not 1 <= len(asked) <= MOST_WORDS:
        raise UsageError(f"give 1 to {MOST_WORDS} words, separated by commas or one per line (got {len(asked)})")
    if character := unusable_character(asked):
        raise UsageError(f"the words contain the control or broken character {character}; remove it")
    return asked


def _fetched(merged: Artifacts) -> Path:
    """The folder of a run's merged model, fetched and verified."""
    pulled = Path(PULLED) / merged.run
    folder = pulled if (pulled / layout.MERGED).is_dir() else layout.pulled_cache(merged.store.url, merged.run)
    merged.fetch(folder, byte_progress)
    return folder / layout.MERGED


def _refuse_control_tokens(folder: Path, words: Sequence[str]) -> None:
    from cefr_batch.data.special_tokens import SpecialTokens

    if token := SpecialTokens.read(folder).in_text("\n".join(words)):
        raise UsageError(
            f"the words contain {printable(token)}, which the model would take for a control token; remove it"
        )


def _warn(spec: RunSpec, run: str, words: int) -> None:
    """Say so where the number of words is not the one that the model was trained with."""
    if spec.data.source is not None and words != spec.data.words_per_example:
        trained = f"{run} was trained with {spec.data.words_per_example} words at a time"
        click.echo(f"note: {trained}; with {words} its sentences may be worse", err=True)


def _written(folder: Path, words: Sequence[str], spec: RunSpec, sampling: Sampling | None) -> Answer:
    from cefr_batch.data import Example, prompt_format
    from cefr_batch.data.build import instruction_for
    from cefr_batch.evaluation.generation import generate_from
    from cefr_batch.evaluation.text_quality import Answer

    prompts, asked = prompt_format(spec.model.prompt, folder), Example(instruction_for(words, spec.level), "", "")
    found = generate_from(folder, prompts, asked, TOKENS_PER_WORD * len(words), sampling)
    return Answer(tuple(words), found.text.strip(), cut=not found.ended)


def _doubts(answer: Answer) -> Iterator[str]:
    """What is not as it was asked for, in the model's answer."""
    if answer.cut:
        yield f"the answer was cut off after {TOKENS_PER_WORD * len(answer.words)} tokens, since the model did not end it"
    if not answer.is_well_formed():
        yield "the answer is not one numbered sentence for each word and nothing else"
    if unused := answer.unused():
        yield f"the model did not use these words in their sentences: {printable(', '.join(unused))}"
