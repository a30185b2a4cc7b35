"""``cefr-batch generate``: sentences from a run's merged model."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cefr_batch import layout
from cefr_batch.cli.cmd_pull import PULLED, fetch, parts_of
from cefr_batch.cli.options import chosen_complete_runs, echo_json, json_option, runs_options, store_option
from cefr_batch.errors import CefrBatchError, UsageError
from cefr_batch.launch.submission import read_spec
from cefr_batch.store import Store
from cefr_batch.store.manifest import read_manifest

if TYPE_CHECKING:
    from cefr_batch.levels import RunSpec
    from cefr_batch.run.generate import Sampling

MOST_WORDS = 100
_TOKENS_A_WORD = 40  # of the answer: twice what a sentence takes


def _number(_context: click.Context, parameter: click.Parameter, value: float) -> float:
    """A range lets NaN through, of which a model makes nothing."""
    if math.isnan(value):
        raise UsageError(f"{parameter.opts[0]}: nan is not a number")
    return value


@click.command()
@runs_options
@click.option("--words", metavar="WORD,...", help="What to write sentences for; else standard input, also a line each.")
@click.option("--sample", is_flag=True, help="Draw at random instead of taking the most probable token each time.")
@click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True, help="Of --sample.")
@click.option(
    "--temperature", type=click.FloatRange(0, 10, min_open=True), callback=_number, default=0.7, show_default=True
)
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), callback=_number, default=0.9, show_default=True)
@click.option("--baseline", is_flag=True, help="Beside it, what the model wrote before it was tuned.")
@json_option
@store_option
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
    store: Store,
) -> None:
    """Write a sentence for each word with the model of a complete run.

    The merged model is fetched to the machine's cache, verified, and stays there; a copy that `pull` left in ./pulled is
    used instead.
    """
    chosen = chosen_complete_runs(store, runs, levels)
    if len(chosen) > 1:
        raise UsageError(f"one run at a time: {', '.join(chosen)}")
    asked = _asked(words)
    folder = _merged(store, chosen[0])
    spec = read_spec(store, chosen[0])
    _warn(spec, chosen[0], len(asked))
    with _training_libraries():
        from cefr_batch.run.generate import Sampling

        sampling = Sampling(temperature, top_p, seed) if sample else None
        texts = {"text": _written(folder, asked, spec, sampling)}
        if baseline:
            from cefr_batch.pretrained import resolve_model

            texts["baseline"] = _written(resolve_model(spec.model), asked, spec, sampling)
    if as_json:
        echo_json({"run": chosen[0], "level": spec.level.value, "words": asked, **texts})
    elif baseline:
        click.echo(f"{chosen[0]}:\n\n{texts['text']}\n\n{spec.model.name}, untuned:\n\n{texts['baseline']}")
    else:
        click.echo(texts["text"])


def _asked(words: str | None) -> list[str]:
    from cefr_batch.data.reading import unusable_character

    if words is None and sys.stdin.isatty():
        raise UsageError("name the words: --words 'travel, decide', or one a line on standard input")
    text = sys.stdin.read() if words is None else words
    asked = [" ".join(word.split()) for word in re.split(r"[,\n]", text) if word.strip()]
    if not 1 <= len(asked) <= MOST_WORDS:
        raise UsageError(f"give 1 to {MOST_WORDS} words, between commas or one a line; these are {len(asked)}")
    if character := unusable_character(asked):
        raise UsageError(f"the words have the control or broken character {character}; remove it")
    return asked


def _merged(store: Store, run: str) -> Path:
    """The folder of the run's merged model, fetched and verified."""
    manifest = read_manifest(store, run)
    items = parts_of(manifest, ["merged"])
    pulled = Path(PULLED) / run
    folder = pulled if (pulled / layout.MERGED).is_dir() else layout.pulled_cache(store.url, run)
    fetch(store, manifest, items, folder)
    return folder / layout.MERGED


def _warn(spec: RunSpec, run: str, words: int) -> None:
    """The model writes best what it was trained on."""
    if spec.data.source is not None and words != spec.data.words_per_example:
        trained = f"{run} was trained on {spec.data.words_per_example} words at a time"
        click.echo(f"note: {trained}; for {words} its sentences may be worse", err=True)


@contextmanager
def _training_libraries() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as exc:
        raise CefrBatchError(
            f"{exc.name} is not installed, and models need it: pip install 'cefr-batch[train]'"
        ) from exc


def _written(folder: Path, words: Sequence[str], spec: RunSpec, sampling: Sampling | None) -> str:
    from cefr_batch.data import Example, prompt_of
    from cefr_batch.data.build import instruction_for
    from cefr_batch.run.generate import generate_from

    prompt = prompt_of(Example(instruction_for(words, spec.level), "", ""))
    return generate_from(folder, prompt, _TOKENS_A_WORD * len(words), sampling).strip()
