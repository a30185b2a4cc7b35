"""A working folder to start from: job files, data, site files, each with comments. Never overwrites anything."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import DataSpec, Level
from cefr_batch.data.build import build_examples
from cefr_batch.data.dataset import load_dataset
from cefr_batch.data.io import TableLayout, read_data_file
from cefr_batch.data.pairs import Pair, read_pairs, record_kind, starter_file
from cefr_batch.errors import CefrBatchError, DataError, Problem, UsageError
from cefr_batch.schedulers import get_scheduler
from cefr_batch.schedulers.draft import DraftSetting, as_yaml, draft_text
from cefr_batch.schedulers.sites import SiteScheduler

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_-]+")
# What is tried of a user's own pairs, from the defaults downwards: words of an example, examples.
_WORDS = (10, 5, 3)
_EXAMPLES = (2000, 1000, 500, 200, 100, 50, 20)

_JOB = """\
# Level {level}. Each setting is explained, with its default, in base.yaml, which this file extends. `cefr-batch config show`
# says where that file is, and with --level {level} shows the resulting settings. File names are relative to this folder.
extends: base
level: {level}

{data}

# What is changed most often, with its default:
# model:
#   name: unsloth/Llama-3.2-1B-Instruct   # a Hugging Face id, a local folder, a .gguf file, or smollm2
#   alias: llama1b                        # in the names of runs
#   prompt: alpaca                        # or chat: the model's own chat template
# training:
#   epochs: 10
#   batch_size: 16
#   gradient_accumulation_steps: 4
#   learning_rate: 2e-4
#   max_length: 512                       # tokens of an example
#   loss_on: all                          # or response
# lora: {{rank: 128, alpha: 256}}
"""
_SAMPLE = """\
# Sentence pairs: a word, and a sentence that uses it, in the columns word and sentence. This sample is the level's starter
# corpus: replace its lines, or name a file of your own here (.csv, .xlsx, .jsonl). `cefr-batch data check FILE` checks it.
data:
  source: {source}"""
_PAIRS = """\
# {number} sentence pairs, from which examples are built: {words} words, and a sentence with each.
data:
  source: {source}"""
_READY = """\
# Ready examples in list format (instruction, input, output).
data:
  train: {train}
  eval: {evaluation}"""
_SITE = (
    "Where `--cluster {kind}/{name}` runs jobs. What is not set here is as in {kind}/default.yaml of cefr-batch, which "
    "explains every setting. `cefr-batch doctor --cluster {kind}/{name}` checks this file against the cluster."
)


@dataclass(frozen=True)
class FirstFiles:
    """What was written. ``unknown``: the settings of sites that could not be found out, with the reasons; ``examples``: of
    the user's own data, if they give fewer than a run has by default."""

    files: tuple[Path, ...]
    clusters: tuple[str, ...]
    unknown: tuple[str, ...]
    examples: int | None = None


def write_first_files(
    folder: Path,
    levels: Sequence[str],
    *,
    data: Sequence[Path] = (),
    layout: TableLayout | None = None,
    kinds: Sequence[str] = (),
    site: str = "mysite",
    host: str | None = None,
) -> FirstFiles:
    """Write a job file for each level and, for each kind of cluster (``slurm``, ``k8s``), a site file named ``site``.

    ``data``: a file of sentence pairs (``layout``: its sheet and columns), or two of examples in list format, training and
    evaluation; without it each level gets a sample. ``host``: a login node, to ask its SLURM over ssh. Raises
    ``UsageError``, which names all of them, if a file is there already, ``DataError`` for data that cannot be used; then
    nothing is written. Blocks for at most half a minute for each kind of cluster, and for the login at a host.
    """
    if not _NAME.fullmatch(site):
        raise UsageError(f"--site: {site!r} is not a name; take letters, digits, dashes and underscores")
    if host and "slurm" not in kinds:
        raise UsageError("--host: a login node is asked only for a site file of SLURM; add --slurm")
    if data and len(levels) > 1:
        raise UsageError("--data holds one level's sentences; name that level alone, and call init once for each")
    targets = [folder / "jobs" / f"{level.lower()}.yaml" for level in levels]
    targets += [] if data else [folder / "data" / f"{level.lower()}.csv" for level in levels]
    targets += [folder / kind / f"{site}.yaml" for kind in kinds]
    _refuse_existing(folder, targets)
    described = _Described.own(folder / "jobs", Level(levels[0]), data, layout or TableLayout()) if data else None
    texts = _job_texts(folder, [Level(level) for level in levels], described)
    drafts = _drafts(kinds, host)
    for kind, settings in drafts.items():
        texts[folder / kind / f"{site}.yaml"] = draft_text(_SITE.format(kind=kind, name=site), settings)
    _write(texts)
    _warn_of_other_folders(folder, ("jobs", *kinds))
    return FirstFiles(
        tuple(texts),
        tuple(f"{kind}/{site}" for kind in kinds),
        tuple(line for kind, settings in drafts.items() for line in _unknown(f"{kind}/{site}.yaml", settings)),
        described.examples if described else None,
    )


def _drafts(kinds: Sequence[str], host: str | None) -> dict[str, list[DraftSetting]]:
    schedulers = {kind: get_scheduler(kind) for kind in kinds}
    return {kind: one.draft(host) for kind, one in schedulers.items() if isinstance(one, SiteScheduler)}


def _unknown(file: str, settings: Sequence[DraftSetting]) -> Iterator[str]:
    for why in dict.fromkeys(one.why for one in settings if not one.known):
        yield f"{file}: {', '.join(one.key for one in settings if not one.known and one.why == why)}: {why}"


# The texts.


def _job_texts(folder: Path, levels: Sequence[Level], own: _Described | None) -> dict[Path, str]:
    """The files of jobs and data, with their texts; ``own``: the user's own data."""
    texts: dict[Path, str] = {}
    for level in levels:
        job, sample = (
            folder / kind / f"{level.value.lower()}.{end}" for kind, end in (("jobs", "yaml"), ("data", "csv"))
        )
        if not own:
            texts[sample] = starter_file(level).read_text(encoding="utf-8")
        data = own.text if own else _SAMPLE.format(source=_relative(sample, job.parent))
        texts[job] = _JOB.format(level=level, data=data)
    return texts


@dataclass(frozen=True)
class _Described:
    """The data part of a job file for files of the user's own, and how many examples they give if those are few."""

    text: str
    examples: int | None = None

    @classmethod
    def own(cls, jobs: Path, level: Level, files: Sequence[Path], layout: TableLayout) -> _Described:
        """Raises ``DataError`` for what cannot be trained on, ``UsageError`` for files that do not belong together."""
        holds = [record_kind(read_data_file(path, layout).first) for path in files]
        if holds == ["examples", "examples"]:
            settings = [
                f"data.{side}={as_yaml(str(path))}" for side, path in zip(("train", "eval"), files, strict=True)
            ]
            load_dataset(load_spec(level, overrides=settings).data, level)
            return cls(_READY.format(train=_relative(files[0], jobs), evaluation=_relative(files[1], jobs)))
        if holds == ["examples"]:
            raise UsageError(
                f"--data {files[0]} holds ready examples; give two such files, for training and for evaluation, or take "
                f"this one apart with `cefr-batch data pairs {files[0]} --out pairs.json` and give pairs.json"
            )
        if len(files) > 1:
            raise UsageError("--data: give one file of sentence pairs, or two of examples (training, then evaluation)")
        pairs = read_pairs(str(files[0]), level, layout)
        chosen = _fitting(pairs, files[0], level)
        words = chosen.get("words_per_example", _WORDS[0])
        text = _PAIRS.format(number=f"{len(pairs):,}", words=words, source=_relative(files[0], jobs))
        default = load_spec(level).data
        fewer = [
            f"  {key}: {value}    # the default, {getattr(default, key)}, would need more pairs"
            for key, value in chosen.items()
        ]
        named = {"columns": dict(layout.columns), "sheet": layout.sheet}
        where = [f"  {key}: {as_yaml(value)}" for key, value in named.items() if value]
        return cls("\n".join([text, *where, *fewer]), chosen.get("examples"))


def _fitting(pairs: Sequence[Pair], source: Path, level: Level) -> dict[str, int]:
    """What must differ from the defaults of ``data`` so that examples can be built of these pairs. Raises ``DataError`` if
    there are too few."""
    default = load_spec(level, overrides=[f"data.source={as_yaml(str(source))}"]).data
    for words in _WORDS:
        for examples in _EXAMPLES:
            tried = {"words_per_example": words, "examples": examples}
            if _can_build(pairs, default.model_copy(update=tried), level):
                return {key: value for key, value in tried.items() if value != getattr(default, key)}
    few = f"its {len(pairs)} sentence pairs, of {len({pair.word.casefold() for pair in pairs})} different words, are too few"
    least = f"not even {_EXAMPLES[-1]} examples of {_WORDS[-1]} words each can be built from them"
    what = f"{few}: {least} once some words are held out for evaluation"
    raise DataError([Problem(str(source), f"{what}; add pairs with more words, or more sentences for the same words")])


def _can_build(pairs: Sequence[Pair], spec: DataSpec, level: Level) -> bool:
    try:
        build_examples(pairs, spec, level)
    except DataError:
        return False
    return True


def _relative(path: Path, folder: Path) -> str:
    """A file as a YAML value: counted from the folder, but for one that was named by an absolute path and is far away."""
    relative = os.path.relpath(path.absolute(), folder.absolute())
    far = relative.startswith("../../..")
    return as_yaml(os.path.normpath(path) if path.is_absolute() and far else relative)


# The files.


def _refuse_existing(folder: Path, targets: Sequence[Path]) -> None:
    there = [path for path in targets if os.path.lexists(path)]
    if there:
        named = ", ".join(str(path) for path in there)
        raise UsageError(f"already there: {named}; init overwrites nothing: move them away, or name another folder")
    blocked = {
        part for path in targets for part in (folder, path.parent) if os.path.lexists(part) and not part.is_dir()
    }
    if blocked:
        raise UsageError(f"{', '.join(sorted(map(str, blocked)))} is a file where init needs a folder; move it away")


def _write(texts: Mapping[Path, str]) -> None:
    """Write all of these new files or, if one cannot be written, none."""
    written: list[Path] = []
    try:
        for path, text in texts.items():
            written += [*_new_folders(path.parent), path]
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
    except OSError as exc:
        _take_back(written)
        raise CefrBatchError(f"cannot write {path}: {exc.strerror or exc}; nothing was left behind") from exc
    except BaseException:  # Ctrl-C too
        _take_back(written)
        raise


def _new_folders(folder: Path) -> Iterator[Path]:
    return (one for one in (*reversed(folder.parents), folder) if not one.exists())


def _take_back(paths: Sequence[Path]) -> None:
    for path in reversed(paths):
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def _warn_of_other_folders(folder: Path, kinds: Sequence[str]) -> None:
    for kind in kinds:
        variable = f"CEFR_BATCH_{kind.upper()}"
        if os.environ.get(variable):
            log.warning("%s is set, so %s is not read; unset it", variable, folder / kind)
