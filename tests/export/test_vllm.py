"""vLLM: one script that serves the adapters of several runs, which a shell and vLLM understand."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support.report_stores import set_spec
from support.stored_runs import add_complete

from cefr_batch.config.load import load_spec
from cefr_batch.errors import ExportError
from cefr_batch.export.vllm import export_vllm
from cefr_batch.store.local import LocalStore

FILES = {"adapter/chat_template.jinja": b"{{ messages }}", "adapter/adapter_config.json": b"{}"}


def add_run(store: LocalStore, level: str, *settings: str, files: dict[str, bytes] = FILES) -> str:
    run = f"llama1b-{level.lower()}-peft-v1"
    add_complete(store, run, files)
    set_spec(store, run, load_spec(level, overrides=["backend=peft", "lora.rank=24", *settings]), "0" * 64)
    return run


def test_the_script_serves_each_run_under_its_name(store: LocalStore, tmp_path: Path) -> None:
    runs = [add_run(store, level) for level in ("A1", "B1")]
    out = tmp_path / "to serve"
    script = export_vllm(store, runs, out)
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\npwd\nfor word in "$@"; do printf "%s\\n" "$word"; done\n')
    program.chmod(0o755)
    environment = {"PATH": f"{program.parent}:/usr/bin:/bin"}
    done = subprocess.run([str(script), "--port", "8001"], capture_output=True, text=True, check=True, env=environment)
    where, *words = done.stdout.splitlines()
    assert where == str(out)
    assert words == [
        *("serve", "unsloth/Llama-3.2-1B-Instruct", "--enable-lora", "--max-loras", "2", "--max-lora-rank", "32"),
        *("--lora-modules", f"{runs[0]}=./{runs[0]}/adapter", f"{runs[1]}=./{runs[1]}/adapter"),
        *("--chat-template", f"./{runs[0]}/adapter/chat_template.jinja", "--generation-config", f"./{runs[0]}/adapter"),
        *("--override-generation-config", '{"temperature": 0}', "--port", "8001"),
    ]
    for run in runs:
        assert (out / run / "adapter" / "chat_template.jinja").read_bytes() == b"{{ messages }}"
        assert ModelCard.load(out / run / "adapter" / "README.md").data.get("library_name") == "peft"
    assert shlex.quote('{"temperature": 0}') in script.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "files", "message"),
    [
        (["model.name=org/other"], FILES, "differ in their base model"),
        ([], {**FILES, "adapter/chat_template.jinja": b"{{ other }}"}, "differ in their chat template"),
        ([], {"adapter/adapter_config.json": b"{}"}, "has no chat_template.jinja: an earlier version trained it"),
        (["lora.rank=1000"], FILES, "vLLM serves adapters of rank 512 at most, and one has 1000"),
    ],
)
def test_what_one_server_cannot_serve_is_refused(
    settings: list[str], files: dict[str, bytes], message: str, store: LocalStore, tmp_path: Path
) -> None:
    runs = [add_run(store, "A1"), add_run(store, "B1", *settings, files=files)]
    with pytest.raises(ExportError, match=message):
        export_vllm(store, runs, tmp_path)
    assert not (tmp_path / "serve-vllm.sh").exists()


def test_one_adapter_without_a_template_is_refused_too(store: LocalStore, tmp_path: Path) -> None:
    run = add_run(store, "A1", files={"adapter/adapter_config.json": b"{}"})
    with pytest.raises(ExportError, match=r"has no chat_template\.jinja"):
        export_vllm(store, [run], tmp_path)
