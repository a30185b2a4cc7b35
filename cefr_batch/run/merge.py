"""Adapter + base model → one 16-bit model that plain transformers loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from cefr_batch.errors import JobFailed

# bf16 keeps 8 significant bits: rounding merged weights moves the mean loss by a few thousandths at most (seen: at most
# 0.005 on SmolLM2 and on models of random weights), a wrong merge by far more.
TOLERANCE = 0.02


def merge(adapted: Any, tokenizer: Any, dtype: torch.dtype, target: Path, tmp: Path) -> None:
    """Fold a PEFT model's adapter into its base weights and save them as ``dtype`` safetensors with the tokenizer.

    The sum is formed in the model's own precision (fp32) and rounded once. Uses up ``adapted``. ``target`` appears whole.
    """
    shutil.rmtree(tmp, ignore_errors=True)
    merged = adapted.merge_and_unload().to(dtype)
    merged.config.dtype = dtype
    merged.save_pretrained(tmp)
    tokenizer.save_pretrained(tmp)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    tmp.rename(target)


def check_same_loss(adapter_loss: float, merged_loss: float) -> None:
    """Raise ``JobFailed`` unless the merged model's loss is the adapter's within rounding."""
    if not abs(merged_loss - adapter_loss) <= TOLERANCE:
        raise JobFailed(
            f"the merged model's loss is {merged_loss:.4f}, with the adapter it was {adapter_loss:.4f}: the merge is wrong, "
            "so it is not published; the adapter is stored and right"
        )
