"""A merged model → a folder with its GGUF file, checked by running it. Knows no store."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from cefr_batch import __version__
from cefr_batch.config.schema import RunSpec
from cefr_batch.data import PromptFormat, prompt_format
from cefr_batch.data.chat_template import FILE as CHAT_TEMPLATE
from cefr_batch.data.examples import sha256_of
from cefr_batch.errors import Damaged, ExportError
from cefr_batch.export.gguf import INSTALL, convert, converter_version
from cefr_batch.export.modelfile import MODELFILE, modelfile
from cefr_batch.files import sha256_file, tail, write_bytes
from cefr_batch.records import layout
from cefr_batch.records.document import read_file, write_file
from cefr_batch.records.exports import CheckAnswer, CheckRequest, ExportRecord, GgufType, export_kind
from cefr_batch.records.stages import StoredObject
from cefr_batch.records.timestamps import now

log = logging.getLogger(__name__)

CHECKED_EXAMPLES = 20
_ANSWER_TOKENS = 300  # of a run that generated no texts of its own
_MARK, _LOG = ".made-of", ".converter.log"  # while an export is unfinished
_TYPES: dict[str, GgufType] = {"q8_0": "q8_0", "q4_k_m": "q4_k_m"}


def merged_sha256(files: Mapping[str, str]) -> str:
    """Stands for a merged model: the SHA-256 of its files' own, by name, but for the card's."""
    lines = (f"{sha256} {name}\n" for name, sha256 in sorted(files.items()) if name != layout.CARD)
    return sha256_of("".join(lines).encode())


@dataclass(frozen=True)
class ExportSource:
    """What an export is made of: a run's merged model, its settings, and the folder of its dataset."""

    run: str
    spec: RunSpec
    merged: Path
    dataset: Path

    @cached_property
    def sha256(self) -> str:
        """See ``merged_sha256``."""
        files = [file for file in self.merged.rglob("*") if file.is_file() and file.name != layout.CARD]
        return merged_sha256({file.relative_to(self.merged).as_posix(): sha256_file(file) for file in files})

    @cached_property
    def prompts(self) -> PromptFormat:
        """How the model was asked in training."""
        return prompt_format(self.spec.model.prompt, self.merged)


def gguf_types(forms: Sequence[str]) -> list[GgufType]:
    """The GGUF files that these forms (``config.schema.ExportForm``) need, each once: Ollama runs the same file."""
    return list(dict.fromkeys(_TYPES.get(form.partition("-")[2], "f16") for form in forms))


def can_verify() -> bool:
    """Whether llama.cpp is installed here."""
    return find_spec("llama_cpp") is not None


def finished_export(folder: Path, merged_sha256: str) -> ExportRecord | None:
    """The record of an export that is in a folder whole; None if it is not there, or of another model."""
    file = folder / layout.EXPORT_RECORD
    if not file.is_file():
        return None
    try:
        record = read_file(ExportRecord, file)
    except Damaged:
        return None
    there = [folder / one.key.rpartition("/")[2] for one in record.objects]
    whole = all(
        path.is_file() and path.stat().st_size == one.size for path, one in zip(there, record.objects, strict=True)
    )
    return record if whole and record.merged_sha256 == merged_sha256 else None


def make_gguf(source: ExportSource, type_: GgufType, folder: Path, *, verify: bool = True) -> ExportRecord:
    """Write the export to a folder, its record last. Blocks for minutes.

    Idempotent: what is there and whole stays, unless it could be verified now and was not; one that was interrupted goes on
    where it stopped. Raises ``ExportError`` if the model cannot be converted, or is another one in llama.cpp than it was
    here: then the file is not kept.
    """
    there = finished_export(folder, source.sha256)
    if there and is_enough(there, verify):
        return there
    converter = converter_version()
    if not (source.merged / CHAT_TEMPLATE).is_file():
        raise ExportError(
            f"the merged model of {source.run} has no {CHAT_TEMPLATE}, which says how to prompt it: an earlier version "
            f"wrote it; train the level again"
        )
    gguf = folder / f"{source.run}-{type_}.gguf"
    if there is None:
        _begin(folder, source.sha256)
    log.info("converting to %s", gguf.name)
    metadata = convert(source.merged, type_, source.prompts, gguf, folder / _LOG)
    text = modelfile(source.run, gguf, source.merged, metadata)
    write_bytes(folder / MODELFILE, text.encode())
    answer = _verified(source, type_, gguf) if verify else CheckAnswer(not_verified="it was not asked for")
    record = ExportRecord(
        run=source.run,
        kind=type_,
        objects=[_object(type_, file) for file in (gguf, folder / MODELFILE)],
        merged_sha256=source.sha256,
        converter=converter,
        check=answer.check,
        not_verified=answer.not_verified,
        code_version=__version__,
        made_at=now(),
    )
    write_file(folder / layout.EXPORT_RECORD, record)
    for name in (_MARK, _LOG):
        (folder / name).unlink(missing_ok=True)
    return record


def is_enough(there: ExportRecord, verify: bool) -> bool:
    """Whether an export that is there need not be made again: to verify it, if it was not."""
    return bool(there.check) or not verify or not can_verify()


def _begin(folder: Path, model: str) -> None:
    """Keep what an interrupted export of this very model left, and nothing else."""
    mark = folder / _MARK
    if not mark.is_file() or mark.read_text(encoding="utf-8") != model:
        shutil.rmtree(folder, ignore_errors=True)
        write_bytes(mark, model.encode())


def _object(type_: GgufType, file: Path) -> StoredObject:
    key = f"{layout.export_folder(export_kind(type_))}/{file.name}"
    return StoredObject(key=key, size=file.stat().st_size, sha256=sha256_file(file))


def _verified(source: ExportSource, type_: GgufType, gguf: Path) -> CheckAnswer:
    """What llama.cpp makes of the file. Raises ``ExportError``, and removes the file, if that is not what was trained."""
    if not can_verify():
        missing = "llama.cpp is not installed on the machine that made this file"
        why = f"{missing}; install it there with {INSTALL}, then export once more"
        log.info("%s is not verified: %s", gguf.name, why)
        return CheckAnswer(not_verified=why)
    log.info("running %s with llama.cpp, beside the merged model", gguf.name)
    answer = _ask(source, gguf)
    wrong = [answer.refused] if answer.refused else list(answer.check.problems(type_)) if answer.check else []
    if wrong:
        gguf.unlink()
        raise ExportError(f"{gguf.name} is not the model that was trained, so it is not kept: {'; '.join(wrong)}")
    return answer


def _ask(source: ExportSource, gguf: Path) -> CheckAnswer:
    """By a process of its own, whose end by a crash or for lack of memory says nothing of the file."""
    spec = source.spec
    request = CheckRequest(
        gguf=str(gguf),
        merged=str(source.merged),
        dataset=str(source.dataset),
        prompt=spec.model.prompt,
        max_length=spec.training.max_length,
        examples=min(CHECKED_EXAMPLES, spec.evaluation.max_examples or CHECKED_EXAMPLES),
        max_new_tokens=spec.generation.max_new_tokens if spec.generation.examples else _ANSWER_TOKENS,
    )
    asked, answered, said = (gguf.with_name(f".{name}") for name in ("request.json", "answer.json", "verification.log"))
    write_file(asked, request)
    command = [sys.executable, "-m", "cefr_batch.export.verification", str(os.getpid()), str(asked), str(answered)]
    with said.open("wb") as file:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        lines = tail(said).splitlines() or [""]
        answer = CheckAnswer(not_verified=f"the verification ended with exit code {done.returncode}: {lines[-1]}")
    else:
        answer = read_file(CheckAnswer, answered)
    for left in (asked, answered, said):
        left.unlink(missing_ok=True)
    return answer
